/* Loaded into the gateway before the C library: records every call that changes a file below a directory, with
 * the bytes that it writes, in the order in which the calls took effect.
 *
 *   RECORDED_DIR  the directory
 *   RECORD        gets one entry per call: the kind (1 byte), a number (8 bytes: the offset of a write, a length),
 *                 the lengths of two strings (4 bytes each), and the two strings; numbers are little-endian
 *
 * kind  call                      number  first string  second string
 * c     a file was made                   path
 * t     a length was set          length  path
 * w     bytes were written        offset  path          the bytes
 * s     a file or directory was synced    path
 * r     a rename                          path          the new path
 * u     a file was removed                path
 * d     a directory was made              path
 * x     a directory was removed           path
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name, type, ...)                  \
    static type (*real)(__VA_ARGS__);          \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name)

/* Held during a call and its entry: entries are in the order of the calls. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record = -1;

static int is_recorded(const char *path) {
    const char *dir = getenv("RECORDED_DIR");
    return dir && strncmp(path, dir, strlen(dir)) == 0;
}

static int in_use(int fd, char path[PATH_MAX + 1]) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX);
    if (length < 0) return 0;
    path[length] = 0;
    return is_recorded(path);
}

static void enter(char kind, uint64_t number, const char *path, const void *second, size_t second_length) {
    if (record < 0) {
        const char *file = getenv("RECORD");
        if (!file) abort();
        record = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        if (record < 0) abort();
    }
    struct __attribute__((packed)) {
        char kind;
        uint64_t number;
        uint32_t lengths[2];
    } head = {kind, number, {(uint32_t)strlen(path), (uint32_t)second_length}};
    struct iovec parts[] = {{&head, sizeof head}, {(void *)path, strlen(path)}, {(void *)second, second_length}};
    if (writev(record, parts, 3) != (ssize_t)(sizeof head + strlen(path) + second_length)) abort();
}

static ssize_t write_at(int fd, const void *bytes, size_t count, off_t at,
                        ssize_t (*call)(int, const void *, size_t, off_t)) {
    char path[PATH_MAX + 1];
    if (!in_use(fd, path)) return call(fd, bytes, count, at);
    pthread_mutex_lock(&lock);
    if (at < 0) {
        struct stat data;
        int appends = fcntl(fd, F_GETFL) & O_APPEND;
        off_t here = appends && fstat(fd, &data) == 0 ? data.st_size : lseek(fd, 0, SEEK_CUR);
        ssize_t written = call(fd, bytes, count, at);
        if (written > 0) enter('w', here, path, bytes, written);
        pthread_mutex_unlock(&lock);
        return written;
    }
    ssize_t written = call(fd, bytes, count, at);
    if (written > 0) enter('w', at, path, bytes, written);
    pthread_mutex_unlock(&lock);
    return written;
}

static ssize_t real_write(int fd, const void *bytes, size_t count, off_t at) {
    REAL(write, ssize_t, int, const void *, size_t);
    (void)at;
    return real(fd, bytes, count);
}

static ssize_t real_pwrite(int fd, const void *bytes, size_t count, off_t at) {
    REAL(pwrite, ssize_t, int, const void *, size_t, off_t);
    return real(fd, bytes, count, at);
}

ssize_t write(int fd, const void *bytes, size_t count) { return write_at(fd, bytes, count, -1, real_write); }

ssize_t pwrite(int fd, const void *bytes, size_t count, off_t at) {
    return write_at(fd, bytes, count, at, real_pwrite);
}

ssize_t pwrite64(int fd, const void *bytes, size_t count, off64_t at) {
    return write_at(fd, bytes, count, at, real_pwrite);
}

static int sync_as(int fd, int (*call)(int)) {
    char path[PATH_MAX + 1];
    if (!in_use(fd, path)) return call(fd);
    pthread_mutex_lock(&lock);
    int result = call(fd);
    if (result == 0) enter('s', 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int fsync(int fd) {
    REAL(fsync, int, int);
    return sync_as(fd, real);
}

int fdatasync(int fd) {
    REAL(fdatasync, int, int);
    return sync_as(fd, real);
}

int ftruncate(int fd, off_t length) {
    REAL(ftruncate, int, int, off_t);
    char path[PATH_MAX + 1];
    if (!in_use(fd, path)) return real(fd, length);
    pthread_mutex_lock(&lock);
    int result = real(fd, length);
    if (result == 0) enter('t', length, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}

int ftruncate64(int fd, off64_t length) { return ftruncate(fd, length); }

static int open_as(const char *path, int flags, mode_t mode) {
    REAL(open, int, const char *, int, ...);
    if (!is_recorded(path) || !(flags & (O_CREAT | O_TRUNC))) return real(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat data;
    int was_there = lstat(path, &data) == 0;
    int fd = real(path, flags, mode);
    if (fd >= 0 && !was_there) enter('c', 0, path, NULL, 0);
    if (fd >= 0 && was_there && (flags & O_TRUNC)) enter('t', 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE_OF(flags)                    \
    mode_t mode = 0;                      \
    if ((flags) & (O_CREAT | O_TMPFILE)) { \
        va_list rest;                     \
        va_start(rest, flags);            \
        mode = va_arg(rest, mode_t);      \
        va_end(rest);                     \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_as(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_as(path, flags | O_LARGEFILE, mode);
}

#define OF_PATH(name, kind, parameters, types, arguments, second)             \
    int name parameters {                                                     \
        REAL(name, int, types);                                               \
        if (!is_recorded(path)) return real arguments;                        \
        pthread_mutex_lock(&lock);                                            \
        int result = real arguments;                                          \
        const char *other = second;                                           \
        if (result == 0) enter(kind, 0, path, other, other ? strlen(other) : 0); \
        pthread_mutex_unlock(&lock);                                          \
        return result;                                                        \
    }

#define TWO(a, b) a, b
OF_PATH(rename, 'r', (const char *path, const char *to), TWO(const char *, const char *), (path, to), to)
OF_PATH(unlink, 'u', (const char *path), const char *, (path), NULL)
OF_PATH(rmdir, 'x', (const char *path), const char *, (path), NULL)
OF_PATH(mkdir, 'd', (const char *path, mode_t mode), TWO(const char *, mode_t), (path, mode), NULL)

int unlinkat(int dir, const char *name, int flags) {
    REAL(unlinkat, int, int, const char *, int);
    char path[2 * PATH_MAX + 2];
    if (name[0] == '/' || dir == AT_FDCWD || !in_use(dir, path)) return real(dir, name, flags);
    pthread_mutex_lock(&lock);
    int result = real(dir, name, flags);
    strcat(strcat(path, "/"), name);
    if (result == 0) enter(flags & AT_REMOVEDIR ? 'x' : 'u', 0, path, NULL, 0);
    pthread_mutex_unlock(&lock);
    return result;
}
