# A wrong argument without exceptions and without a handler ends the process by SIGABRT, after everything before it has worked.
execute_process(COMMAND ${PROGRAM} RESULT_VARIABLE result OUTPUT_VARIABLE output)
if(NOT result MATCHES "[Aa]bort" OR NOT output MATCHES "before the error")
  message(FATAL_ERROR "expected SIGABRT, got ${result}\n${output}")
endif()
