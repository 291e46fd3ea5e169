/* Records what a process does to files below a directory, in order: preload it, with
 *
 *   DISK_ROOT   the directory, without links in its path
 *   DISK_LOG    the file that records are appended to
 *
 * A call and its record are one step for all threads and processes that write to one log. A record is a Header, the
 * path, and for writes the bytes. Inodes name files, since one file can have two paths. What a process maps into its
 * memory is not seen. */

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
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

typedef struct __attribute__((packed)) {
    char what;
    uint64_t inode;
    uint64_t offset; /* or the new length, or the length of the first of two paths */
    uint32_t path_length;
    uint32_t data_length;
} Header;

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static char root[PATH_MAX];
static size_t root_length;
static int log_file = -1;

#define REAL(type, name, ...)                                   \
    static type (*real)(__VA_ARGS__);                           \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

static ssize_t real_write(int file, const void *bytes, size_t length) {
    REAL(ssize_t, "write", int, const void *, size_t);
    return real(file, bytes, length);
}

static void fatal(const char *what) {
    fprintf(stderr, "recorder: %s: %s\n", what, strerror(errno));
    _exit(97);
}

static void start(void) {
    const char *directory = getenv("DISK_ROOT"), *path = getenv("DISK_LOG");
    if (!directory || !path) return;
    root_length = strlen(directory);
    memcpy(root, directory, root_length + 1);
    int (*open_file)(const char *, int, ...) = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    log_file = open_file(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (log_file < 0) fatal(path);
}

static void lock(void) {
    pthread_once(&once, start);
    pthread_mutex_lock(&mutex);
    if (log_file >= 0)
        while (flock(log_file, LOCK_EX) != 0)
            if (errno != EINTR) fatal("lock");
}

static void unlock(void) {
    int error = errno;
    if (log_file >= 0) flock(log_file, LOCK_UN);
    pthread_mutex_unlock(&mutex);
    errno = error;
}

static int is_below_root(const char *path) {
    return log_file >= 0 && strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || !path[root_length]);
}

static void put(const void *bytes, size_t length) {
    const char *next = bytes;
    while (length > 0) {
        ssize_t written = real_write(log_file, next, length);
        if (written < 0 && errno != EINTR) fatal("write of a record");
        if (written > 0) next += written, length -= (size_t)written;
    }
}

static void record(char what, uint64_t inode, uint64_t offset, const char *path, const void *data, size_t length) {
    int error = errno;
    Header header = {what, inode, offset, (uint32_t)strlen(path), (uint32_t)length};
    put(&header, sizeof header);
    put(path, header.path_length);
    put(data, length);
    errno = error;
}

static void record_two(char what, const char *from, const char *to) {
    char both[2 * PATH_MAX];
    size_t length = strlen(from);
    snprintf(both, sizeof both, "%s%s", from, to);
    record(what, 0, length, both, "", 0);
}

/* The path of an open file; empty for one that is not below the root. */
static void path_of(int file, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length < 0 ? 0 : length] = 0;
    if (!is_below_root(path)) path[0] = 0;
}

/* An absolute path; empty for one that is not below the root. */
static void resolve(int directory, const char *path, char *absolute) {
    absolute[0] = 0;
    if (path[0] == '/') {
        snprintf(absolute, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX / 2] = "", link[64];
        snprintf(link, sizeof link, directory == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", directory);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
        snprintf(absolute, PATH_MAX, "%s/%s", base, path);
    }
    if (!is_below_root(absolute)) absolute[0] = 0;
}

/* Files. */

static int opened(int directory, const char *path, int flags, mode_t mode) {
    REAL(int, "openat64", int, const char *, int, ...);
    if (!(flags & (O_CREAT | O_TRUNC))) return real(directory, path, flags, mode);
    lock();
    char absolute[PATH_MAX];
    struct stat status;
    resolve(directory, path, absolute);
    int was_there = absolute[0] && lstat(absolute, &status) == 0;
    int file = real(directory, path, flags, mode);
    if (file >= 0 && absolute[0] && fstat(file, &status) == 0 && S_ISREG(status.st_mode)) {
        if (!was_there) record('C', status.st_ino, 0, absolute, "", 0);
        else if (flags & O_TRUNC) record('T', status.st_ino, 0, "", "", 0);
    }
    unlock();
    return file;
}

#define MODE(flags)                                        \
    mode_t mode = 0;                                       \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {               \
        va_list arguments;                                 \
        va_start(arguments, flags);                        \
        mode = va_arg(arguments, mode_t);                  \
        va_end(arguments);                                 \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return opened(at, path, flags, mode); }

/* The inode of a regular file below the root; 0 for anything else. */
static uint64_t inode_of(int file) {
    struct stat status;
    char path[PATH_MAX];
    if (file == log_file || fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) return 0;
    path_of(file, path);
    return path[0] ? status.st_ino : 0;
}

#define WRITTEN(file, call, first, each)                                     \
    lock();                                                                  \
    ssize_t written = call;                                                  \
    uint64_t inode = written > 0 ? inode_of(file) : 0;                       \
    if (inode) {                                                             \
        uint64_t offset = first;                                             \
        each                                                                 \
    }                                                                        \
    unlock();                                                                \
    return written

#define ONE record('W', inode, offset, "", bytes, (size_t)written);
#define MANY                                                                 \
    size_t left = (size_t)written;                                           \
    for (int i = 0; left > 0; i++) {                                         \
        size_t length = parts[i].iov_len < left ? parts[i].iov_len : left;   \
        record('W', inode, offset, "", parts[i].iov_base, length);           \
        offset += length, left -= length;                                    \
    }
#define PLACE (uint64_t)lseek(file, 0, SEEK_CUR) - (uint64_t)written

ssize_t write(int file, const void *bytes, size_t length) {
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) return real_write(file, bytes, length);
    WRITTEN(file, real_write(file, bytes, length), PLACE, ONE);
}

ssize_t writev(int file, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    struct stat status;
    if (fstat(file, &status) != 0 || !S_ISREG(status.st_mode)) return real(file, parts, count);
    WRITTEN(file, real(file, parts, count), PLACE, MANY);
}

static ssize_t written_at(int file, const void *bytes, size_t length, off64_t at) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    WRITTEN(file, real(file, bytes, length, at), (uint64_t)at, ONE);
}

ssize_t pwrite(int file, const void *bytes, size_t length, off_t at) { return written_at(file, bytes, length, at); }
ssize_t pwrite64(int file, const void *bytes, size_t length, off64_t at) { return written_at(file, bytes, length, at); }

static ssize_t many_written_at(int file, const struct iovec *parts, int count, off64_t at) {
    REAL(ssize_t, "pwritev64", int, const struct iovec *, int, off64_t);
    WRITTEN(file, real(file, parts, count, at), (uint64_t)at, MANY);
}

ssize_t pwritev(int file, const struct iovec *parts, int n, off_t at) { return many_written_at(file, parts, n, at); }
ssize_t pwritev64(int file, const struct iovec *parts, int n, off64_t at) { return many_written_at(file, parts, n, at); }

/* Copies within the kernel have no bytes to record; callers fall back to writes. */
ssize_t copy_file_range(int in, off64_t *at, int out, off64_t *to, size_t length, unsigned flags) {
    (void)in, (void)at, (void)out, (void)to, (void)length, (void)flags;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile64(int out, int in, off64_t *at, size_t length) {
    (void)out, (void)in, (void)at, (void)length;
    errno = ENOSYS;
    return -1;
}
ssize_t sendfile(int out, int in, off_t *at, size_t length) { return sendfile64(out, in, (off64_t *)at, length); }
int fallocate64(int file, int mode, off64_t at, off64_t length) {
    (void)file, (void)mode, (void)at, (void)length;
    errno = EOPNOTSUPP;
    return -1;
}
int fallocate(int file, int mode, off_t at, off_t length) { return fallocate64(file, mode, at, length); }

static int cut(int file, off64_t length) {
    REAL(int, "ftruncate64", int, off64_t);
    lock();
    int result = real(file, length);
    uint64_t inode = result == 0 ? inode_of(file) : 0;
    if (inode) record('T', inode, (uint64_t)length, "", "", 0);
    unlock();
    return result;
}

int ftruncate(int file, off_t length) { return cut(file, length); }
int ftruncate64(int file, off64_t length) { return cut(file, length); }

static int synced(int file, int result) {
    char path[PATH_MAX];
    struct stat status;
    path_of(file, path);
    if (result == 0 && path[0] && fstat(file, &status) == 0)
        record(S_ISDIR(status.st_mode) ? 'D' : 'S', status.st_ino, 0, path, "", 0);
    return result;
}

/* Nothing is synced: what is lost is decided when the records are read. */
int fsync(int file) { lock(); int result = synced(file, 0); unlock(); return result; }
int fdatasync(int file) { lock(); int result = synced(file, 0); unlock(); return result; }

/* Names. */

#define NAMED(what, call)                              \
    lock();                                            \
    char absolute[PATH_MAX];                           \
    resolve(at, path, absolute);                       \
    int result = call;                                 \
    if (result == 0 && absolute[0]) record(what, 0, 0, absolute, "", 0); \
    unlock();                                          \
    return result

static int removed(int at, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    NAMED(flags & AT_REMOVEDIR ? 'X' : 'U', real(at, path, flags));
}

int unlink(const char *path) { return removed(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return removed(AT_FDCWD, path, AT_REMOVEDIR); }
int unlinkat(int at, const char *path, int flags) { return removed(at, path, flags); }

static int made(int at, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    NAMED('M', real(at, path, mode));
}

int mkdir(const char *path, mode_t mode) { return made(AT_FDCWD, path, mode); }
int mkdirat(int at, const char *path, mode_t mode) { return made(at, path, mode); }

#define RENAMED(what, call)                                            \
    lock();                                                            \
    char old[PATH_MAX], new[PATH_MAX];                                 \
    resolve(from_at, from, old);                                       \
    resolve(to_at, to, new);                                           \
    int result = call;                                                 \
    if (result == 0 && old[0] && new[0]) record_two(what, old, new);   \
    unlock();                                                          \
    return result

static int moved(int from_at, const char *from, int to_at, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    RENAMED('R', real(from_at, from, to_at, to));
}

int rename(const char *from, const char *to) { return moved(AT_FDCWD, from, AT_FDCWD, to); }
int renameat(int from_at, const char *from, int to_at, const char *to) { return moved(from_at, from, to_at, to); }

static int linked(int from_at, const char *from, int to_at, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    RENAMED('L', real(from_at, from, to_at, to, flags));
}

int link(const char *from, const char *to) { return linked(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int from_at, const char *from, int to_at, const char *to, int flags) {
    return linked(from_at, from, to_at, to, flags);
}
