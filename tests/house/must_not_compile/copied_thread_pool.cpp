// Expect: deleted
// Threads have one owner.
namespace copied_thread_pool {
#ifdef CONTROL
const sluice::thread_pool& f(const sluice::thread_pool& p) { return p; }
#else
sluice::thread_pool f(const sluice::thread_pool& p) { return p; }
#endif
}  // namespace copied_thread_pool
