// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Two processes that share their memory (CLONE_VM without CLONE_THREAD): what is written into one's vDSO is in the other's. The
 * second, whose pid is in the file `sibling`, computes and calls the vDSO without a pause.
 */
#include "victim.h"

#include <sched.h>

enum { STACK = 256 * 1024 };

static volatile int ends, failures;

static int compute(void *unused)
{
	struct timespec last = { 0 }, now;
	uint64_t x = 88172645463325252ull;

	(void)unused;
	while (!ends) {
		uint64_t y = x, z = x;

		for (int i = 0; i < 1000; i++)
			y = (y ^ y << 13) * 3;
		for (int i = 0; i < 1000; i++)
			z = (z ^ z << 13) * 3;
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (y != z || now.tv_sec < last.tv_sec ||
		    (now.tv_sec == last.tv_sec && now.tv_nsec < last.tv_nsec))
			failures++;
		last = now;
		x = y | 1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	siginfo_t info = info_value(SIGUSR2, 7);
	char text[16], *stack;
	int status;
	pid_t pid;

	victim_begin(argc, argv);
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (stack == MAP_FAILED)
		victim_die("mmap: %m");
	pid = clone(compute, stack + STACK, CLONE_VM | SIGCHLD, NULL);
	if (pid < 0)
		victim_die("clone: %m");
	snprintf(text, sizeof(text), "%d", pid);
	victim_write_file("sibling", text);
	k_setmask(SIGBIT(SIGUSR2));
	k_queue_shared(&info);
	victim_checkpoint();
	victim_drain();
	ends = 1;
	if (waitpid(pid, &status, 0) != pid)
		victim_fail("waiting for the sibling", "its end", strerror(errno));
	expect_int(0, status, "the sibling's status");
	expect_int(0, failures, "wrong results of the sibling");
	return victim_end();
}
