/*
 * fuzz_config.c - poplar.conf.
 *
 * Promised: it is read, or one line says where and why not.
 */
#include "daemon/configfile.h"
#include "tests/fuzz/fuzz.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

static char path[64];
static int fd;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    fd = memfd_create("poplar.conf", MFD_CLOEXEC);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char error[512] = "";
    promise(ftruncate(fd, 0) == 0 && pwrite(fd, data, size, 0) == (ssize_t)size);
    struct config *config = configfile_read(path, error, sizeof error);
    promise(config || error[0]);
    promise(config || (!strchr(error, '\n') && strncmp(error, path, strlen(path)) == 0));
    config_free(config);
    return 0;
}
