/*
 * test_unfit.c - an SQLite that is not as the store needs it: too old, built without something, or
 * deaf to one of the settings. Each of its answers is wrong once, and each time nothing is opened.
 *
 * The linker puts the functions here in the place of the product's calls. The library keeps one
 * state a process: each try runs in a child.
 */
#include "test_store.h"

#include "store/handle.h"
#include "store/schema.h"
#include "store/vfs.h"
#include <stdarg.h>

/* In which way it is wrong: it says so; it does not do it and says nothing; it answers something
 * else. */
enum way { REFUSES, IGNORES, ANSWERS_WRONG, WAYS };

static struct {
    unsigned nth, count;
    enum way way;
    bool met;
} lie;

static bool is_wrong(void)
{
    if (++lie.count != lie.nth)
        return false;
    lie.met = true;
    return true;
}

int __real_sqlite3_config(int option, ...);
int __real_sqlite3_db_config(sqlite3 *db, int option, ...);
int __real_sqlite3_initialize(void);
int __real_sqlite3_limit(sqlite3 *db, int which, int value);
int __real_sqlite3_file_control(sqlite3 *db, const char *name, int which, void *argument);
int __real_sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs);
const unsigned char *__real_sqlite3_column_text(sqlite3_stmt *statement, int column);
sqlite3_vfs *__real_sqlite3_vfs_find(const char *name);
int __real_sqlite3_vfs_register(sqlite3_vfs *vfs, int first);
int __wrap_sqlite3_libversion_number(void);
int __wrap_sqlite3_compileoption_used(const char *name);
int __wrap_sqlite3_config(int option, ...);
int __wrap_sqlite3_db_config(sqlite3 *db, int option, ...);
int __wrap_sqlite3_initialize(void);
int __wrap_sqlite3_limit(sqlite3 *db, int which, int value);
int __wrap_sqlite3_file_control(sqlite3 *db, const char *name, int which, void *argument);
int __wrap_sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs);
const unsigned char *__wrap_sqlite3_column_text(sqlite3_stmt *statement, int column);
sqlite3_vfs *__wrap_sqlite3_vfs_find(const char *name);
int __wrap_sqlite3_vfs_register(sqlite3_vfs *vfs, int first);

int __wrap_sqlite3_libversion_number(void)
{
    return is_wrong() ? 3030000 : SQLITE_VERSION_NUMBER;
}

int __wrap_sqlite3_compileoption_used(const char *name)
{
    assert_string_equal(name, "OMIT_WAL");
    return is_wrong();
}

int __wrap_sqlite3_config(int option, ...)
{
    va_list arguments;
    void *first;
    int second, third;

    if (is_wrong())
        return SQLITE_ERROR;
    va_start(arguments, option);
    if (option != SQLITE_CONFIG_PAGECACHE) {
        second = option == SQLITE_CONFIG_MEMSTATUS ? va_arg(arguments, int) : 0;
        va_end(arguments);
        return __real_sqlite3_config(option, second);
    }
    first = va_arg(arguments, void *);
    second = va_arg(arguments, int);
    third = va_arg(arguments, int);
    va_end(arguments);
    return __real_sqlite3_config(option, first, second, third);
}

int __wrap_sqlite3_initialize(void)
{
    return is_wrong() ? SQLITE_NOMEM : __real_sqlite3_initialize();
}

int __wrap_sqlite3_limit(sqlite3 *db, int which, int value)
{
    if (!is_wrong())
        return __real_sqlite3_limit(db, which, value);
    return value < 0 ? __real_sqlite3_limit(db, which, value) + 1
                     : __real_sqlite3_limit(db, which, value + 1);
}

int __wrap_sqlite3_db_config(sqlite3 *db, int option, ...)
{
    va_list arguments;
    int value, *answer, rc;

    va_start(arguments, option);
    value = va_arg(arguments, int);
    answer = va_arg(arguments, int *);
    va_end(arguments);
    if (!is_wrong())
        return __real_sqlite3_db_config(db, option, value, answer);
    if (lie.way == REFUSES)
        return SQLITE_ERROR;
    rc = __real_sqlite3_db_config(db, option, value, answer);
    *answer = !value;
    return rc;
}

int __wrap_sqlite3_file_control(sqlite3 *db, const char *name, int which, void *argument)
{
    if (!is_wrong())
        return __real_sqlite3_file_control(db, name, which, argument);
    if (lie.way == ANSWERS_WRONG)
        *(int *)argument = 0;
    return lie.way == REFUSES ? SQLITE_NOTFOUND : SQLITE_OK;
}

int __wrap_sqlite3_open_v2(const char *path, sqlite3 **db, int flags, const char *vfs)
{
    const bool wrong = is_wrong();

    *db = NULL;
    if (wrong && lie.way == REFUSES)
        return SQLITE_NOMEM;
    __real_sqlite3_open_v2(path, db, flags, vfs);
    return wrong ? SQLITE_CANTOPEN : SQLITE_OK;
}

/* Whether nobody listens to this, but asks again. */
static bool is_asked_again(sqlite3_stmt *statement)
{
    static const char *const settings[] = {
        "cell_size_check=", "temp_store=", "synchronous=", "cache_size="};

    static unsigned versions;

    if (strstr(sqlite3_sql(statement), "user_version"))
        return versions++ > 0; /* under the write lock, where it counts */
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++)
        if (strstr(sqlite3_sql(statement), settings[i]))
            return true;
    return false;
}

const unsigned char *__wrap_sqlite3_column_text(sqlite3_stmt *statement, int column)
{
    static const unsigned char wrong[] = "an answer that is longer than all others are";

    if (is_asked_again(statement) || !is_wrong())
        return __real_sqlite3_column_text(statement, column);
    return lie.way == REFUSES ? NULL : wrong;
}

static sqlite3_vfs *real_vfs;

static sqlite3_syscall_ptr get_call(sqlite3_vfs *vfs, const char *name)
{
    (void)vfs;
    return is_wrong() ? NULL : real_vfs->xGetSystemCall(real_vfs, name);
}

static int set_call(sqlite3_vfs *vfs, const char *name, sqlite3_syscall_ptr call)
{
    (void)vfs;
    return is_wrong() ? SQLITE_NOTFOUND : real_vfs->xSetSystemCall(real_vfs, name, call);
}

sqlite3_vfs *__wrap_sqlite3_vfs_find(const char *name)
{
    static sqlite3_vfs vfs;

    if (is_wrong() && lie.way == REFUSES)
        return NULL;
    real_vfs = __real_sqlite3_vfs_find(name);
    vfs = *real_vfs;
    vfs.xGetSystemCall = get_call;
    vfs.xSetSystemCall = set_call;
    if (lie.met && lie.way != REFUSES)
        vfs.iVersion = 2;
    return &vfs;
}

int __wrap_sqlite3_vfs_register(sqlite3_vfs *vfs, int first)
{
    return is_wrong() ? SQLITE_MISUSE : __real_sqlite3_vfs_register(vfs, first);
}

static struct test_drop drop;

enum { UNTOUCHED, REFUSED, NOT_OPENED, OPENED };

/* In a child: what comes of it. */
static int use(void)
{
    struct maildrop *m = NULL;

    if (maildrop_library_init(true) != STORE_OK)
        return lie.met ? REFUSED : OPENED;
    if (test_drop_try(&drop, &m) != STORE_OK)
        return lie.met && strlen(maildrop_error(NULL)) > 0 ? NOT_OPENED : OPENED;
    return lie.met ? OPENED : UNTOUCHED;
}

static int try(enum way way, unsigned nth)
{
    int status;
    const pid_t pid = fork();

    assert_true(pid >= 0);
    if (pid == 0) {
        lie.way = way;
        lie.nth = nth;
        _exit(use());
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

static void test_each_answer(void **state)
{
    (void)state;
    test_drop_make(&drop);
    for (enum way way = REFUSES; way < WAYS; way++) {
        unsigned refused = 0, not_opened = 0, nth = 1;
        int result;

        for (; (result = try(way, nth)) != UNTOUCHED; nth++) {
            if (result == OPENED)
                fail_msg("way %d, answer %u: the maildrop is open", (int)way, nth);
            refused += result == REFUSED;
            not_opened += result == NOT_OPENED;
        }
        printf("%u answers at the start, %u at an opening\n", refused, not_opened);
        assert_true(refused > 20);
        assert_true(not_opened > 20);
    }
    test_drop_remove(&drop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_answer)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
