/*
 * memory.c - stand-ins for malloc() and its kin that refuse on demand, and count what is not given
 * back.
 */
#include "tests/faults/memory.h"
#include "tests/faults/disk.h"
#include <malloc.h>
#include <openssl/crypto.h>
#include <sqlite3.h>
#include <string.h>
#include <sys/mman.h>

static struct {
    bool paused;
    int live;
} self;

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t size);
void __real_free(void *block);
void *__real_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__real_mremap(void *old, size_t old_size, size_t size, int flags, ...);
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset);
void *__wrap_mremap(void *old, size_t old_size, size_t size, int flags, ...);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_reallocarray(void *old, size_t n, size_t size);
char *__wrap_strdup(const char *text);
void __wrap_free(void *block);

static bool is_refused(enum disk_call kind)
{
    return !self.paused &&
           (disk_is_wrong(DISK_MEMORY) || (kind != DISK_MEMORY && disk_is_wrong(kind)));
}

static void *counted(void *block)
{
    self.live += block != NULL;
    return block;
}

static void *make(size_t size)
{
    return counted(__real_malloc(size));
}

void *__wrap_malloc(size_t size)
{
    return is_refused(DISK_OUR_MEMORY) ? NULL : make(size);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return is_refused(DISK_OUR_MEMORY) ? NULL : counted(__real_calloc(n, size));
}

static void *make_larger(void *old, size_t size)
{
    void *block = __real_realloc(old, size);

    return old ? block : counted(block);
}

void *__wrap_realloc(void *old, size_t size)
{
    return is_refused(DISK_OUR_MEMORY) ? NULL : make_larger(old, size);
}

void *__wrap_reallocarray(void *old, size_t n, size_t size)
{
    return __wrap_realloc(old, n * size);
}

char *__wrap_strdup(const char *text)
{
    char *copy = __wrap_malloc(strlen(text) + 1);

    return copy ? strcpy(copy, text) : NULL;
}

void __wrap_free(void *block)
{
    self.live -= block != NULL;
    __real_free(block);
}

/* Whole pages from the system; who keeps count of them is the system. */
void *__wrap_mmap(void *at, size_t size, int protection, int flags, int fd, off_t offset)
{
    return is_refused(DISK_OUR_MEMORY) ? MAP_FAILED
                                       : __real_mmap(at, size, protection, flags, fd, offset);
}

/* Nobody says where they shall move to. */
void *__wrap_mremap(void *old, size_t old_size, size_t size, int flags, ...)
{
    return is_refused(DISK_OUR_MEMORY) ? MAP_FAILED : __real_mremap(old, old_size, size, flags);
}

static void *sqlite_malloc(int size)
{
    return is_refused(DISK_MEMORY) ? NULL : make((size_t)size);
}

static void *sqlite_realloc(void *block, int size)
{
    return is_refused(DISK_MEMORY) ? NULL : make_larger(block, (size_t)size);
}

static void *openssl_malloc(size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return size > 0 && !is_refused(DISK_MEMORY) ? make(size) : NULL;
}

static void *openssl_realloc(void *block, size_t size, const char *file, int line)
{
    (void)file, (void)line;
    return is_refused(DISK_MEMORY) ? NULL : make_larger(block, size);
}

static void openssl_free(void *block, const char *file, int line)
{
    (void)file, (void)line;
    __wrap_free(block);
}

static int sqlite_size(void *block)
{
    return (int)malloc_usable_size(block);
}

static int sqlite_roundup(int size)
{
    return (size + 7) & ~7;
}

static int sqlite_init(void *context)
{
    (void)context;
    return SQLITE_OK;
}

static void sqlite_shutdown(void *context)
{
    (void)context;
}

bool memory_install(void)
{
    static const sqlite3_mem_methods methods = {
        sqlite_malloc,  __wrap_free, sqlite_realloc,  sqlite_size,
        sqlite_roundup, sqlite_init, sqlite_shutdown, NULL};

    return CRYPTO_set_mem_functions(openssl_malloc, openssl_realloc, openssl_free) == 1 &&
           sqlite3_config(SQLITE_CONFIG_MALLOC, &methods) == SQLITE_OK;
}

void memory_pause(bool paused)
{
    self.paused = paused;
}

int memory_live(void)
{
    return self.live;
}
