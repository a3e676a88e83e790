# Configures tests/consumer_subdirectory, which counts what sluice adds, and looks for install rules. The program itself is the same
# as in consumer_install, so its build is not repeated, only a check that the include path reaches the compiler.
file(REMOVE_RECURSE ${WORK})
execute_process(COMMAND ${CMAKE_COMMAND} -S ${ROOT}/tests/consumer_subdirectory -B ${WORK} -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${CXX}
                -DSLUICE_ROOT=${ROOT} -DEIGEN_INCLUDE=${EIGEN_INCLUDE} -DCMAKE_EXPORT_COMPILE_COMMANDS=ON
                RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${output}")
endif()
file(READ ${WORK}/sluice/cmake_install.cmake rules)
if(rules MATCHES "file\\(INSTALL")
  message(FATAL_ERROR "install rules inside another project:\n${rules}")
endif()
file(READ ${WORK}/compile_commands.json commands)
if(NOT commands MATCHES "-I${ROOT}/include|-isystem ${ROOT}/include" OR NOT commands MATCHES "std=(gnu|c)\\+\\+20" OR commands MATCHES "-W|-march")
  message(FATAL_ERROR "unexpected compile command:\n${commands}")
endif()
