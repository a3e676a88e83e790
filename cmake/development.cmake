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
    FetchContent_MakeAvailable(${name})
  endif()
endmacro()
