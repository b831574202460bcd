// SPDX-License-Identifier: GPL-2.0-or-later
/* A signalfd whose signals are pending: what it reads afterwards is what was queued. */
#include "victim.h"

#include <sys/signalfd.h>

int main(int argc, char **argv)
{
	uint64_t mask = SIGBIT(SIGUSR1) | SIGBIT(SIGRTMIN + 1);
	struct signalfd_siginfo got;
	siginfo_t info;
	int fd;

	victim_begin(argc, argv);
	k_setmask(mask);
	fd = (int)syscall(SYS_signalfd4, -1, &mask, sizeof(mask), SFD_NONBLOCK);
	if (fd < 0)
		victim_die("signalfd: %m");
	for (int i = 0; i < 3; i++) {
		info = info_value(SIGRTMIN + 1, 100 + i);
		k_queue_shared(&info);
	}
	kill(getpid(), SIGUSR1);

	victim_checkpoint();

	expect_int(sizeof(got), read(fd, &got, sizeof(got)), "read");
	expect_int(SIGUSR1, got.ssi_signo, "ssi_signo");
	expect_int(SI_USER, got.ssi_code, "ssi_code");
	expect_int(getpid(), got.ssi_pid, "ssi_pid");
	for (int i = 0; i < 3; i++) {
		expect_int(sizeof(got), read(fd, &got, sizeof(got)), "read");
		expect_int(SIGRTMIN + 1, got.ssi_signo, "ssi_signo");
		expect_int(100 + i, got.ssi_int, "ssi_int");
	}
	expect_int(-1, read(fd, &got, sizeof(got)), "read of the empty queue");
	expect_int(EAGAIN, errno, "its errno");
	return victim_end();
}
