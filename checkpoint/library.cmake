# The room as a library of its own: liblockstep-ckpt.a, its headers and lockstep-ckpt.pc. One object holds
# what checkpoints need of the lower rooms; its only global names are those that the headers declare.
set(headers checkpoint/ckpt.h checkpoint/diff.h checkpoint/owner.h checkpoint/prune.h
    checkpoint/rewrite.h checkpoint/saver.h checkpoint/stats.h checkpoint/values.h collectives/comm.h runtime/base/dtype.h
    runtime/base/hash.h runtime/base/log.h runtime/base/status.h runtime/mesh/layout.h)
set(names "")
foreach(header ${headers})
  file(STRINGS ${CMAKE_SOURCE_DIR}/${header} lines REGEX "ls_[a-z0-9_]+\\(")
  string(REGEX MATCHALL "ls_[a-z0-9_]+\\(" found "${lines}")
  list(APPEND names ${found})
  get_filename_component(folder ${header} DIRECTORY)
  install(FILES ${CMAKE_SOURCE_DIR}/${header}
          DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/lockstep/${folder})
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${header})
endforeach()
list(REMOVE_DUPLICATES names)
string(REPLACE "(" "" names "${names}")
string(REPLACE ";" "\n" names "${names}")
file(CONFIGURE OUTPUT lockstep-ckpt.symbols CONTENT "@names@\n" @ONLY)

set(library ${CMAKE_CURRENT_BINARY_DIR}/liblockstep-ckpt.a)
set(whole ${CMAKE_CURRENT_BINARY_DIR}/lockstep-ckpt.o)
set(rooms ls_collectives ls_device ls_mesh ls_base)
list(TRANSFORM rooms REPLACE "(.+)" "$<TARGET_FILE:\\1>" OUTPUT_VARIABLE archives)
add_custom_command(OUTPUT ${library} VERBATIM
  COMMAND ${CMAKE_LINKER} -r -o ${whole} --whole-archive $<TARGET_FILE:ls_ckpt> --no-whole-archive
          --start-group ${archives} --end-group
  COMMAND ${CMAKE_OBJCOPY} --keep-global-symbols=${CMAKE_CURRENT_BINARY_DIR}/lockstep-ckpt.symbols
          ${whole}
  COMMAND ${CMAKE_COMMAND} -E rm -f ${library}
  COMMAND ${CMAKE_AR} rcs ${library} ${whole}
  DEPENDS ls_ckpt ${rooms} ${CMAKE_CURRENT_BINARY_DIR}/lockstep-ckpt.symbols)
add_custom_target(lockstep-ckpt ALL DEPENDS ${library})
install(FILES ${library} DESTINATION ${CMAKE_INSTALL_LIBDIR})

set(hdf5_libraries ${HDF5_C_LIBRARIES})
list(FILTER hdf5_libraries INCLUDE REGEX hdf5) # not what only a static one needs
string(REPLACE ";" " " hdf5_libraries "${hdf5_libraries}")
set(sanitize "")
if(LS_SANITIZE)
  set(sanitize " -fsanitize=${LS_SANITIZE}")
endif()
set(ipsec_mb "")
if(LS_IPSEC_MB)
  set(ipsec_mb " -lIPSec_MB")
endif()
file(RELATIVE_PATH up /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
file(CONFIGURE OUTPUT lockstep-ckpt.pc @ONLY CONTENT [[
prefix=${pcfiledir}/@up@.
libdir=${prefix}/@CMAKE_INSTALL_LIBDIR@
includedir=${prefix}/@CMAKE_INSTALL_INCLUDEDIR@

Name: lockstep-ckpt
Description: Checkpoints of lockstep: list, load, verify, compare, save
Version: @PROJECT_VERSION@
Requires: jansson
Requires.private: libzstd libcrypto libxxhash libisal
Cflags: -I${includedir}/lockstep
Libs: -L${libdir} -llockstep-ckpt -lzstd -lcrypto -lxxhash -lisal@ipsec_mb@ @hdf5_libraries@ @OpenMP_C_FLAGS@@sanitize@ -lm
]])
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/lockstep-ckpt.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
