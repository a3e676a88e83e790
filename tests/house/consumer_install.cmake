# Installs to an empty prefix, then configures, builds and runs tests/consumer against it.
file(REMOVE_RECURSE ${WORK})
file(MAKE_DIRECTORY ${WORK})
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGV}\n${output}")
  endif()
endfunction()

run(${CMAKE_COMMAND} -S ${ROOT} -B ${WORK}/library -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX} -DCMAKE_INSTALL_PREFIX=${WORK}/prefix
    -DSLUICE_BUILD_TESTS=OFF -DSLUICE_BUILD_EXAMPLES=OFF -DEigen3_DIR=${EIGEN})
run(${CMAKE_COMMAND} --install ${WORK}/library)
foreach(file include/sluice/sluice.hpp include/sluice/core/tensor.hpp include/sluice/models.hpp)
  if(NOT EXISTS ${WORK}/prefix/${file})
    message(FATAL_ERROR "${file} was not installed")
  endif()
endforeach()
file(GLOB_RECURSE installed RELATIVE ${WORK}/prefix ${WORK}/prefix/*)
foreach(file IN LISTS installed)
  if(NOT file MATCHES "^include/sluice/.*\\.hpp$|^(lib|lib64|lib/[a-z0-9_-]+|share)/cmake/sluice/.*\\.cmake$")
    message(FATAL_ERROR "unexpected file installed: ${file}")
  endif()
endforeach()
run(${CMAKE_COMMAND} -S ${ROOT}/tests/consumer -B ${WORK}/consumer -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
    -DCMAKE_PREFIX_PATH=${WORK}/prefix -DEigen3_DIR=${EIGEN} -DCMAKE_BUILD_TYPE=Debug)
run(${CMAKE_COMMAND} --build ${WORK}/consumer)
run(${WORK}/consumer/consumer)

# A version that is not there is refused.
execute_process(COMMAND ${CMAKE_COMMAND} -S ${ROOT}/tests/consumer -B ${WORK}/refused -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
                -DCMAKE_PREFIX_PATH=${WORK}/prefix -DEigen3_DIR=${EIGEN} -DWANTED=0.2 RESULT_VARIABLE result OUTPUT_QUIET ERROR_VARIABLE output)
if(result EQUAL 0 OR NOT output MATCHES "0\\.2")
  message(FATAL_ERROR "version 0.2 was accepted, or refused for another reason:\n${output}")
endif()
