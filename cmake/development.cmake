# What our own tests, benchmarks and examples need; nothing here reaches a user of sluice::sluice.
add_library(sluice_warnings INTERFACE)
target_compile_options(sluice_warnings INTERFACE
  $<$<CXX_COMPILER_ID:GNU,Clang>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror>)

find_package(Threads REQUIRED)

# sluice_dependency(NAME TARGET URL COMMIT): the packaged library if it is installed, else, when allowed, its sources at a
# fixed commit.
include(FetchContent)
macro(sluice_dependency name target url commit)
  if(NOT TARGET ${target})
    find_package(${name} QUIET)
  endif()
  if(NOT TARGET ${target})
    if(NOT SLUICE_FETCH_DEPENDENCIES)
      message(FATAL_ERROR "${name} is not installed. Install it, or configure with -DSLUICE_FETCH_DEPENDENCIES=ON.")
    endif()
    FetchContent_Declare(${name} GIT_REPOSITORY ${url} GIT_TAG ${commit})
    set(BENCHMARK_ENABLE_TESTING OFF)  # of Google Benchmark; the other libraries test themselves only at top level
    set(BENCHMARK_ENABLE_INSTALL OFF)
    set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # so that these two count
    FetchContent_MakeAvailable(${name})
    get_target_property(sluice_fetched ${target} ALIASED_TARGET)
    get_target_property(sluice_includes ${sluice_fetched} INTERFACE_INCLUDE_DIRECTORIES)
    set_property(TARGET ${sluice_fetched} PROPERTY INTERFACE_SYSTEM_INCLUDE_DIRECTORIES ${sluice_includes})  # our warnings are not theirs
  endif()
endmacro()
