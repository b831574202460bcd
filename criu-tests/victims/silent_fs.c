// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Serves a FUSE file system with one file, `file`, on the folder that is its first argument, and never answers who wants to
 * read that file. With a second argument it answers readers, and never whoever closes the file (`flush`), or the kernel when
 * that has something to be written to the file (`write`): the folder's name with `.waits` is that of a file that is there as
 * soon as somebody waits for that. Ends when it is killed, and then in less than half a minute: until its end no `ps` of this
 * machine ends.
 */
#include "victim.h"

#include <linux/fuse.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>

static int dev;
/* What is not answered, and what is there as soon as somebody waits for that. */
static uint32_t silent = FUSE_READ;
static char waits[PATH_MAX];

static void answer(const struct fuse_in_header *in, int error, const void *body, size_t len)
{
	static char buffer[8192];
	struct fuse_out_header out = {.len = (uint32_t)(sizeof(out) + len), .error = error, .unique = in->unique};

	memcpy(buffer, &out, sizeof(out));
	if (len)
		memcpy(buffer + sizeof(out), body, len);
	if (write(dev, buffer, out.len) < 0 && errno != ENOENT)
		victim_die("answering: %m");
}

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr attr = {.ino = node, .nlink = 1, .blksize = 4096};

	attr.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0755;
	attr.size = node == FUSE_ROOT_ID ? 0 : 4096;
	return attr;
}

static void serve(const struct fuse_in_header *in, const void *body)
{
	static const char zeros[4096];

	if (in->opcode == silent) {
		if (waits[0] && creat(waits, 0644) < 0)
			victim_die("%s: %m", waits);
		return;
	}
	switch (in->opcode) {
	case FUSE_INIT: {
		struct fuse_init_out out = {.major = 7, .minor = 23, .max_write = 4096};

		answer(in, 0, &out, FUSE_COMPAT_22_INIT_OUT_SIZE + 40);
		return;
	}
	case FUSE_LOOKUP: {
		struct fuse_entry_out out = {.nodeid = 2, .entry_valid = 3600, .attr_valid = 3600, .attr = attributes(2)};

		if (strcmp(body, "file"))
			answer(in, -ENOENT, NULL, 0);
		else
			answer(in, 0, &out, sizeof(out));
		return;
	}
	case FUSE_GETATTR:
	case FUSE_SETATTR: {
		struct fuse_attr_out out = {.attr_valid = 3600, .attr = attributes(in->nodeid)};

		answer(in, 0, &out, sizeof(out));
		return;
	}
	case FUSE_OPEN:
	case FUSE_OPENDIR: {
		struct fuse_open_out out = {.fh = 1};

		answer(in, 0, &out, sizeof(out));
		return;
	}
	case FUSE_FLUSH:
	case FUSE_RELEASE:
	case FUSE_ACCESS:
		answer(in, 0, NULL, 0);
		return;
	case FUSE_READ:
		answer(in, 0, zeros, sizeof(zeros));
		return;
	case FUSE_FORGET:
	case FUSE_BATCH_FORGET:
	case FUSE_INTERRUPT:
		return;
	default:
		answer(in, -ENOSYS, NULL, 0);
	}
}

int main(int argc, char **argv)
{
	static char request[128 * 1024] __attribute__((aligned(8)));
	char options[100];

	if (argc != 2 && argc != 3)
		victim_die("one argument or two");
	if (argc == 3) {
		silent = strcmp(argv[2], "write") ? FUSE_FLUSH : FUSE_WRITE;
		snprintf(waits, sizeof(waits), "%s.waits", argv[1]);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		alarm(25);
	}
	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40000,user_id=0,group_id=0", dev);
	if (dev < 0 || mount("silent", argv[1], "fuse", 0, options))
		victim_die("mount: %m");
	for (;;) {
		ssize_t len = read(dev, request, sizeof(request));

		if (len < 0 && errno == ENODEV)
			return 0;
		if (len >= (ssize_t)sizeof(struct fuse_in_header))
			serve((void *)request, request + sizeof(struct fuse_in_header));
	}
}
