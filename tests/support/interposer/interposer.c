/* Loaded into the gateway before the C library: notes every call that changes a file below a directory, and
 * ends the process by SIGKILL in front of the nth of them.
 *
 *   INTERPOSED_DIR   the directory
 *   INTERPOSED_LOG   gets one line per call: its name and the file
 *   INTERPOSED_KILL  n; never if it is missing
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long calls;

static ssize_t (*real_write)(int, const void *, size_t);

static void note(const char *name, const char *path) {
    const char *dir = getenv("INTERPOSED_DIR"), *log = getenv("INTERPOSED_LOG"), *kill_at = getenv("INTERPOSED_KILL");
    if (!dir || strncmp(path, dir, strlen(dir)) != 0) return;
    pthread_mutex_lock(&lock);
    calls++;
    if (kill_at && calls >= atol(kill_at)) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    if (log) {
        char line[4608];
        int length = snprintf(line, sizeof line, "%s %s\n", name, path);
        int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
        if (!real_write) real_write = dlsym(RTLD_NEXT, "write");
        if (file < 0 || real_write(file, line, length) != length) abort();
        close(file);
    }
    pthread_mutex_unlock(&lock);
}

static void note_fd(const char *name, int fd) {
    char link[64], path[4097];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    note(name, path);
}

#define OF_FD(result, name, parameters, arguments) \
    result name parameters {                       \
        static result(*real) parameters;           \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        note_fd(#name, fd);                        \
        return real arguments;                     \
    }

#define OF_PATH(name, parameters, arguments)       \
    int name parameters {                          \
        static int(*real) parameters;              \
        if (!real) real = dlsym(RTLD_NEXT, #name); \
        note(#name, path);                         \
        return real arguments;                     \
    }

OF_FD(ssize_t, write, (int fd, const void *bytes, size_t count), (fd, bytes, count))
OF_FD(ssize_t, pwrite, (int fd, const void *bytes, size_t count, off_t at), (fd, bytes, count, at))
OF_FD(ssize_t, pwrite64, (int fd, const void *bytes, size_t count, off64_t at), (fd, bytes, count, at))
OF_FD(int, fsync, (int fd), (fd))
OF_FD(int, fdatasync, (int fd), (fd))
OF_FD(int, ftruncate, (int fd, off_t length), (fd, length))
OF_FD(int, ftruncate64, (int fd, off64_t length), (fd, length))
OF_PATH(rename, (const char *path, const char *to), (path, to))
OF_PATH(unlink, (const char *path), (path))
OF_PATH(mkdir, (const char *path, mode_t mode), (path, mode))
