#pragma once

namespace docs {
/// A page of snippets; its constructor, at namespace scope, announces it.
struct page {
  page(const char* name, void (*run)());
};
}  // namespace docs
