// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A process with a child, and with a sibling that shares its memory (CLONE_VM): that one replaces a mapping of the file that
 * is the argument, to which it has written, while the kernel keeps the memory locked.
 */
#include "victim.h"

#include <sched.h>

static const char *file;

static int sibling(void *unused)
{
	int fd = open(file, O_RDWR);
	char *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	(void)unused;
	if (fd < 0 || page == MAP_FAILED)
		_exit(1);
	*page = 1;
	if (mmap(page, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		_exit(2);
	victim_write_file("unlocked", "");
	_exit(0);
}

int main(int argc, char **argv)
{
	static char stack[65536] __attribute__((aligned(16)));
	char path[PATH_MAX], text[32];
	pid_t parent = getpid(), child, locks;
	int status = -1;

	victim_begin(argc, argv);
	file = victim_arg();
	victim_path(path, "go");
	child = fork();
	if (child < 0)
		victim_die("fork: %m");
	if (!child) {
		while (access(path, F_OK))
			k_sleep_ms(2);
		_exit(getppid() == parent ? 0 : 1);
	}
	snprintf(text, sizeof(text), "%d", child);
	victim_write_file("child", text);
	victim_write_file("ready", "");
	/* Not its own child: it is in no tree with it. */
	locks = clone(sibling, stack + sizeof(stack), CLONE_VM | CLONE_PARENT | SIGCHLD, NULL);
	if (locks < 0)
		victim_die("clone: %m");
	while (access(path, F_OK))
		k_sleep_ms(2);
	if (waitpid(child, &status, 0) != child)
		victim_die("waitpid: %m");
	expect_int(0, status, "the child's exit status");
	return victim_end();
}
