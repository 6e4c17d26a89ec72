/*
 * test_full_disk.c - a login that has something to write, to a disk that is full or fails: room is
 * made by deleting, so a full one keeps nobody from his mail; one that fails does.
 */
#include "store/maildrop.h"
#include "tests/faults/disk.h"
#include "tests/support/inside.h"
#include <errno.h>
#include <setjmp.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

enum { NOW = 1700000000, DAY = 86400 };

static const struct inside_world client = {.door = DOOR_POP3, .peer = "192.0.2.1:1024"};
static const char said[] = "USER alice\r\nPASS secret\r\nSTAT\r\nQUIT\r\n";
static struct inside_result result;

/* SQLite's writes, but of the WAL's index, which has its room since it was made. */
static int write_error;

static bool is_index(int fd)
{
    struct stat this, index;
    char path[80];
    snprintf(path, sizeof path, "%s/%s", inside_folder(), maildrop_file_names[MAILDROP_SHM]);
    return fstat(fd, &this) == 0 && stat(path, &index) == 0 && this.st_ino == index.st_ino;
}

static ssize_t write_at(int fd, const void *octets, size_t size, off_t offset)
{
    if (write_error == 0 || is_index(fd))
        return pwrite(fd, octets, size, offset);
    errno = write_error;
    return -1;
}

static void expect(const char *answer, unsigned end)
{
    inside_serve(&client, said, strlen(said), &result);
    if (!strstr(result.output, answer) || result.end != end)
        fail_msg("not '%s', but: %s (%u)", answer, result.output, result.end);
}

/* The old message is deleted for its age, the login is noted. */
static void test_room(void **state)
{
    (void)state;
    inside_restore();
    expect("\r\n+OK 1 5\r\n", END_QUIT);
    expect("\r\n-ERR [LOGIN-DELAY] ", END_LOGIN_DELAY);
}

static void test_full(void **state)
{
    static const int errors[] = {ENOSPC, EDQUOT};
    (void)state;
    for (int i = 0; i < 2; i++) {
        inside_restore();
        write_error = errors[i];
        expect("\r\n+OK 2 10\r\n", END_QUIT);
        write_error = 0;
        expect("\r\n+OK 1 5\r\n", END_QUIT); /* nothing had been noted */
    }
}

static void test_failing(void **state)
{
    (void)state;
    inside_restore();
    write_error = EIO;
    expect("\r\n-ERR [SYS/TEMP] ", END_STORE);
    write_error = 0;
    expect("\r\n+OK 1 5\r\n", END_QUIT);
}

static int enter(void **state)
{
    (void)state;
    inside_begin((const char *[]){"tls.required=no", "session.login_delay=1h",
                                  "store.expire_after=1d", NULL});
    sqlite3_vfs *vfs = sqlite3_vfs_find("unix");
    vfs->xSetSystemCall(vfs, "pwrite64", (sqlite3_syscall_ptr)write_at);
    vfs->xSetSystemCall(vfs, "pwrite", (sqlite3_syscall_ptr)write_at);
    disk_set_clock(NOW - 2 * DAY);
    inside_deliver("old\r\n", 5);
    disk_set_clock(NOW);
    inside_deliver("new\r\n", 5);
    inside_keep();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_failing),
    };

    return cmocka_run_group_tests(tests, enter, inside_leave);
}
