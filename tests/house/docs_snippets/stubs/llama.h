#pragma once
#include <support/llama_stub.hpp>  // what the snippets find under the real name
