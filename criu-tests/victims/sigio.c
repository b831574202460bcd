// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Signals that the kernel sends for a pipe: a real-time number chosen with F_SETSIG, with SIGPOLL's siginfo (band
 * and fd), and the plain SIGIO, which has none. The data that caused them is still in the pipe.
 */
#include "victim.h"

#include <poll.h>

static void announce(int fd, int sig)
{
	if (fcntl(fd, F_SETOWN, getpid()) || fcntl(fd, F_SETSIG, sig) ||
	    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC))
		victim_die("fcntl: %m");
}

int main(int argc, char **argv)
{
	int with_info[2], plain[2];
	siginfo_t info;
	char c = 0;

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	if (pipe(with_info) || pipe(plain))
		victim_die("pipe: %m");
	announce(with_info[0], SIGRTMIN + 3);
	announce(plain[0], 0);
	if (write(with_info[1], "a", 1) != 1 || write(with_info[1], "b", 1) != 1 || write(plain[1], "c", 1) != 1)
		victim_die("write: %m");

	victim_checkpoint();

	for (int i = 0; i < 2; i++) {
		expect_int(SIGRTMIN + 3, k_take(SIGBIT(SIGRTMIN + 3), &info), "F_SETSIG's signal %d", i);
		expect_int(POLL_IN, info.si_code, "si_code");
		expect_int(with_info[0], info.si_fd, "si_fd");
		expect_int(POLLIN | POLLRDNORM, info.si_band, "si_band");
	}
	expect_int(SIGIO, k_take(SIGBIT(SIGIO), &info), "SIGIO");
	expect_int(0, k_take(ALL_SIGNALS, &info), "signal left");
	/* The pipe still announces itself, and with the same number. */
	expect_int(1, write(with_info[1], "d", 1), "write");
	expect_int(SIGRTMIN + 3, k_take(ALL_SIGNALS, &info), "F_SETSIG's signal for a new byte");
	expect_int(with_info[0], info.si_fd, "its si_fd");
	expect_int(1, read(with_info[0], &c, 1), "read");
	expect_int('a', c, "first byte in the pipe");
	return victim_end();
}
