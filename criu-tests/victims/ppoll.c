// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Threads sit in ppoll and pselect with a mask of the call's own and without a time limit. A byte in the pipe ends
 * the call; then the thread's mask is back, and no call was cut short by the checkpoint.
 */
#include "victim.h"

#include <poll.h>
#include <sys/select.h>

#define OWN_MASK (SIGBIT(SIGUSR1) | SIGBIT(SIGRTMIN + 1))
#define CALL_MASK (SIGBIT(SIGUSR2) | SIGBIT(SIGRTMIN + 1))

static int pipes[2][2];

static void thread(int index)
{
	uint64_t mask = CALL_MASK;
	struct pollfd pollfd = { .fd = pipes[index][0], .events = POLLIN };
	struct {
		const uint64_t *mask;
		size_t size;
	} pselect_mask = { &mask, sizeof(mask) };
	siginfo_t info = info_value(SIGRTMIN + 1, index);
	fd_set fds;
	long ret;

	FD_ZERO(&fds);
	FD_SET(pollfd.fd, &fds);
	k_setmask(OWN_MASK);
	k_queue_private(&info);
	if (index == 0) {
		victim_settle(SYS_ppoll);
		ret = syscall(SYS_ppoll, &pollfd, 1, NULL, &mask, sizeof(mask));
	} else {
		victim_settle(SYS_pselect6);
		ret = syscall(SYS_pselect6, pollfd.fd + 1, &fds, NULL, NULL, NULL, &pselect_mask);
	}
	expect_int(1, ret, "%s returns", index ? "pselect" : "ppoll");
	expect_u64(OWN_MASK, k_getmask(), "mask after %s", index ? "pselect" : "ppoll");
	expect_int(SIGRTMIN + 1, k_take(ALL_SIGNALS, &info), "the pending signal");
	expect_int(index, info.si_int, "its value");
}

int main(int argc, char **argv)
{
	victim_begin(argc, argv);
	for (int i = 0; i < 2; i++) {
		if (pipe(pipes[i]))
			victim_die("pipe: %m");
		victim_thread(thread, i);
	}
	victim_checkpoint();
	for (int i = 0; i < 2; i++)
		expect_int(1, write(pipes[i][1], "x", 1), "write");
	return victim_end();
}
