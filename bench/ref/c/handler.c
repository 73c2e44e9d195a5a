/*
 * The smallest handler of userfaultfd that serves a restored Firecracker: one
 * thread, which polls, reads one message and copies one page from a mapping of
 * the memory file. It is what one demand fault costs at least, and nothing else:
 * no removed pages, no holes, no second session, no end but its death.
 *
 * usage: handler SOCKET MEMORY-FILE
 *
 * It prints one line when it listens, accepts one VMM, and serves it until it is
 * killed. The memory file must be as long as the guest's one region.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096ULL

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* map_file maps the whole file with all of its pages present. */
static char *map_file(const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		die(path);
	char *memory = mmap(NULL, st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (memory == MAP_FAILED)
		die("map the memory file");
	close(fd);
	return memory;
}

static int listen_at(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof address.sun_path) {
		fprintf(stderr, "%s: too long for a socket\n", path);
		exit(1);
	}
	strcpy(address.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 1) < 0)
		die(path);
	return fd;
}

/* handshake receives the userfaultfd, and the address of the first region. */
static int handshake(int conn, uint64_t *base)
{
	static const char key[] = "\"base_host_virt_addr\":";
	char text[4096];
	union {
		char room[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec part = { text, sizeof text - 1 };
	struct msghdr message = {
		.msg_iov = &part, .msg_iovlen = 1,
		.msg_control = control.room, .msg_controllen = sizeof control.room,
	};
	ssize_t n = recvmsg(conn, &message, MSG_CMSG_CLOEXEC);
	if (n < 0)
		die("handshake");
	text[n] = 0;
	char *value = strstr(text, key);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	if (!value || !header || header->cmsg_type != SCM_RIGHTS) {
		fprintf(stderr, "no handshake of a VMM\n");
		exit(1);
	}
	*base = strtoull(value + sizeof key - 1, NULL, 10);
	int fd;
	memcpy(&fd, CMSG_DATA(header), sizeof fd);
	return fd;
}

static void serve(int fd, uint64_t base, const char *memory)
{
	for (;;) {
		struct pollfd ready = { .fd = fd, .events = POLLIN };
		if (poll(&ready, 1, -1) < 0)
			die("poll");
		struct uffd_msg message;
		if (read(fd, &message, sizeof message) != sizeof message)
			die("read a page fault");
		if (message.event != UFFD_EVENT_PAGEFAULT) {
			fprintf(stderr, "event %d is no page fault\n", message.event);
			exit(1);
		}
		uint64_t page = message.arg.pagefault.address & ~(PAGE - 1);
		struct uffdio_copy copy = {
			.dst = page, .src = (uint64_t)(uintptr_t)memory + page - base, .len = PAGE,
		};
		if (ioctl(fd, UFFDIO_COPY, &copy) < 0)
			die("copy a page");
	}
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: handler SOCKET MEMORY-FILE\n");
		return 2;
	}
	char *memory = map_file(argv[2]);
	int listener = listen_at(argv[1]);
	puts("listening");
	fflush(stdout);
	int conn = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (conn < 0)
		die("accept");
	uint64_t base;
	int fd = handshake(conn, &base);
	serve(fd, base, memory);
}
