#pragma once
#include <support/onnxruntime_stub.hpp>  // what the snippets find under the real name
