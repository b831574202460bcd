// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Files that take signals of the program or cause some: a signalfd, a pipe with O_ASYNC, F_SETSIG and F_SETOWN, a message
 * queue with mq_notify(3). One more pipe has an owner and no O_ASYNC. With the argument "many" there are descriptors besides, 100,000
 * if the hard limit permits.
 */
#include "victim.h"

#include <sys/resource.h>
#include <sys/signalfd.h>

#define SIG (SIGRTMIN + 2)
#define MANY 100000

static void own(int fd, int flags)
{
	if (fcntl(fd, F_SETOWN, getpid()) || fcntl(fd, F_SETSIG, SIG) || fcntl(fd, F_SETFL, O_NONBLOCK | flags))
		victim_die("fcntl: %m");
}

/* Descriptors of the same pipe. */
static void open_many(int fd)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit))
		victim_die("getrlimit: %m");
	limit.rlim_cur = limit.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &limit))
		victim_die("setrlimit: %m");
	/* Room is left for the files of the victim itself. */
	for (rlim_t i = 64; i < limit.rlim_max && i < MANY; i++)
		if (dup(fd) < 0)
			victim_die("dup: %m");
}

static int queue(void)
{
	/* mq_msgsize of 8 and one message: within every limit. */
	struct { long flags, maxmsg, msgsize, curmsgs, reserved[4]; } attr = { .maxmsg = 1, .msgsize = 8 };
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR2 };
	int fd = (int)syscall(SYS_mq_open, "criu-tests-signal-files", O_CREAT | O_RDWR, 0600, &attr);

	if (fd < 0)
		victim_die("mq_open: %m");
	syscall(SYS_mq_unlink, "criu-tests-signal-files");
	if (syscall(SYS_mq_notify, fd, &event))
		victim_die("mq_notify: %m");
	return fd;
}

int main(int argc, char **argv)
{
	uint64_t mask = SIGBIT(SIGUSR1) | SIGBIT(SIGRTMIN + 1);
	int quiet[2], told[2], reads;
	siginfo_t info = { 0 };
	char text[8];
	int mq;

	victim_begin(argc, argv);
	k_setmask(mask | SIGBIT(SIG) | SIGBIT(SIGUSR2));
	reads = (int)syscall(SYS_signalfd4, -1, &mask, sizeof(mask), SFD_NONBLOCK);
	if (reads < 0 || pipe(told) || pipe(quiet))
		victim_die("signalfd, pipe: %m");
	own(told[0], O_ASYNC);
	own(quiet[0], 0);
	mq = queue();
	if (!strcmp(victim_arg(), "many"))
		open_many(quiet[1]);

	victim_checkpoint();

	/* All are as they were. */
	if (write(told[1], "x", 1) != 1 || syscall(SYS_mq_timedsend, mq, "x", 1, 0, NULL))
		victim_die("write: %m");
	for (int i = 0; i < 5000 && !k_take(SIGBIT(SIG), &info); i++)
		k_sleep_ms(1);
	expect_int(SIG, info.si_signo, "F_SETSIG's signal");
	for (int i = 0; i < 5000 && !k_take(SIGBIT(SIGUSR2), &info); i++)
		k_sleep_ms(1);
	expect_int(SIGUSR2, info.si_signo, "mq_notify's signal");
	expect_int(1, read(told[0], text, sizeof(text)), "read");
	return victim_end();
}
