/*
 * The smallest VMM that a handler of userfaultfd can tell from no other: memory
 * that is absent, registered as Firecracker registers it, its handshake, and one
 * thread that touches pages. It has no runtime whose threads run beside it, as
 * Firecracker has none.
 *
 * usage: vmm BYTES
 *
 * It prints the address of its memory, and then obeys lines on standard input:
 *
 *   connect PATH   make the handshake at that socket; answers with a line
 *   touch N        N offsets follow, 64 bits each in the host's order: load a word
 *                  at each; answers with N times in nanoseconds, 64 bits each
 *   dump           answers with the memory
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

/* open_uffd asks for all faults, and where that is not permitted for those of
 * user code only, which are the only ones here. */
static int open_uffd(void)
{
	int fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		fd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
	if (fd < 0)
		die("userfaultfd");
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	if (ioctl(fd, UFFDIO_API, &api) < 0)
		die("UFFDIO_API");
	return fd;
}

static void handshake(const char *path, int fd, const char *memory, size_t size)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path) {
		fprintf(stderr, "%s: too long for a socket\n", path);
		exit(1);
	}
	strcpy(address.sun_path, path);
	/* The connection stays open, as Firecracker's does. */
	int conn = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (conn < 0 || connect(conn, (struct sockaddr *)&address, sizeof address) < 0)
		die(path);
	char text[256];
	int length = snprintf(text, sizeof text,
		"[{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":0,\"page_size\":%lu,\"page_size_kib\":%lu}]",
		(unsigned long)memory, size, PAGE, PAGE);
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = { { 0 } };
	struct iovec part = { text, length };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.room, .msg_controllen = sizeof control.room,
	};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	if (sendmsg(conn, &message, 0) != length)
		die("handshake");
	puts("connected");
}

static void touch(const char *memory, size_t size, size_t n)
{
	uint64_t *offsets = calloc(n, sizeof *offsets), *took = malloc(n * sizeof *took);
	if (!offsets || !took || fread(offsets, sizeof *offsets, n, stdin) != n)
		die("offsets");
	/* Nothing but the page that is touched may be absent. */
	memset(took, 1, n * sizeof *took);
	for (size_t i = 0; i < n; i++) {
		if (offsets[i] + sizeof(uint64_t) > size) {
			fprintf(stderr, "offset %lu is beyond the memory\n", (unsigned long)offsets[i]);
			exit(1);
		}
		uint64_t before = now();
		*(volatile const uint64_t *)(memory + offsets[i]);
		took[i] = now() - before;
	}
	fwrite(took, sizeof *took, n, stdout);
	free(offsets);
	free(took);
}

/* dump touches each page first: the kernel may not be allowed to fault. */
static void dump(const char *memory, size_t size)
{
	for (size_t at = 0; at < size; at += PAGE)
		*(volatile const char *)(memory + at);
	fwrite(memory, 1, size, stdout);
}

int main(int argc, char **argv)
{
	size_t size = argc == 2 ? strtoull(argv[1], NULL, 10) : 0;
	if (size == 0 || size % PAGE) {
		fprintf(stderr, "usage: vmm BYTES\n");
		return 2;
	}
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		die("map the memory");
	/* The kernel's huge pages would let one fault fill 512 pages. */
	madvise(memory, size, MADV_NOHUGEPAGE);
	int fd = open_uffd();
	struct uffdio_register range = {
		.range = { (uintptr_t)memory, size }, .mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	if (ioctl(fd, UFFDIO_REGISTER, &range) < 0)
		die("UFFDIO_REGISTER");
	printf("%lu\n", (unsigned long)memory);
	fflush(stdout);
	char line[256], path[200];
	size_t n;
	while (fgets(line, sizeof line, stdin)) {
		if (sscanf(line, "connect %199s", path) == 1)
			handshake(path, fd, memory, size);
		else if (sscanf(line, "touch %zu", &n) == 1)
			touch(memory, size, n);
		else if (!strcmp(line, "dump\n"))
			dump(memory, size);
		else {
			fprintf(stderr, "unknown command %s", line);
			return 1;
		}
		fflush(stdout);
	}
	return 0;
}
