// Expect: deleted
// A copy of a cursor would replay its numbers.
namespace copied_cursor {
#ifdef CONTROL
sluice::cursor f(sluice::cursor& c) { return std::move(c); }
#else
sluice::cursor f(sluice::cursor& c) { return c; }
#endif
}  // namespace copied_cursor
