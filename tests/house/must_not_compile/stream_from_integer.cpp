// Expect: no viable conversion|could not convert|conversion from
// A seed becomes a stream only where that is written.
namespace stream_from_integer {
#ifdef CONTROL
sluice::stream f() { return sluice::stream(7); }
#else
sluice::stream f() { return 7; }
#endif
}  // namespace stream_from_integer
