// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Files whose SIGIO goes to a thread, to the process, to its group: each is told. outside: to a process that is not dumped,
 * and is gone when this one is restored.
 */
#include "victim.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#define SIG (SIGRTMIN + 2)

/* struct f_owner_ex, which libc hides behind names of its own. */
struct owner {
	int type;
	pid_t pid;
};

enum { TID, PID, PGRP };

static int ends[3][2];
static pid_t tid;

static void own(int fd, int type, pid_t pid)
{
	struct owner owner = { type, pid };

	if (fcntl(fd, 15 /* F_SETOWN_EX */, &owner) || fcntl(fd, F_SETSIG, SIG) ||
	    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_ASYNC))
		victim_die("fcntl: %m");
}

static struct owner owner_of(int fd)
{
	struct owner owner = { -1, -1 };

	fcntl(fd, 16 /* F_GETOWN_EX */, &owner);
	return owner;
}

static void expect_told(int fd, uint64_t mask)
{
	siginfo_t info = { 0 };

	for (int i = 0; i < 5000 && !k_take(mask, &info); i++)
		k_sleep_ms(1);
	expect_int(SIG, info.si_signo, "F_SETSIG's signal");
	expect_int(fd, info.si_fd, "its si_fd");
}

static void thread(int index)
{
	siginfo_t info;

	(void)index;
	tid = k_gettid();
	k_setmask(SIGBIT(SIG));
	victim_pause();
	expect_int(0, k_take(SIGBIT(SIG), &info), "a signal before there is data");
	/* The leader's signals are the process's: this thread would take them too. */
	if (write(ends[TID][1], "x", 1) != 1)
		victim_fail("write", "1", "an error");
	expect_u64(SIGBIT(SIG), victim_shared_pending() & SIGBIT(SIG) ? 0 : SIGBIT(SIG), "the process is not told");
	expect_told(ends[TID][0], SIGBIT(SIG));
}

/* A process that is nobody's child but init's, and ends when this one does. */
static pid_t outsider(void)
{
	pid_t pid, here = getpid();
	int pipefd[2];

	if (pipe(pipefd))
		victim_die("pipe: %m");
	if (!fork()) {
		setsid();
		if (!fork()) {
			pid = getpid();
			if (write(pipefd[1], &pid, sizeof(pid)) != sizeof(pid))
				_exit(1);
			close(pipefd[0]);
			close(pipefd[1]);
			while (!kill(here, 0))
				k_sleep_ms(1);
		}
		_exit(0);
	}
	if (read(pipefd[0], &pid, sizeof(pid)) != sizeof(pid))
		victim_die("the other process does not say its pid");
	close(pipefd[0]);
	close(pipefd[1]);
	wait(NULL);
	return pid;
}

int main(int argc, char **argv)
{
	pid_t other;

	victim_begin(argc, argv);
	k_setmask(SIGBIT(SIG));
	for (int i = 0; i < 3; i++)
		if (i == PID ? socketpair(AF_UNIX, SOCK_STREAM, 0, ends[i]) : pipe(ends[i]))
			victim_die("pipe: %m");
	if (!strcmp(victim_arg(), "outside")) {
		other = outsider();
		own(ends[PID][0], PID, other);
		victim_checkpoint();
		if (owner_of(ends[PID][0]).pid != (kill(other, 0) ? 0 : other))
			victim_fail("the owner", "the other process, while it is there", "somebody else");
		expect_int(SIG, fcntl(ends[PID][0], F_GETSIG), "F_GETSIG");
		return victim_end();
	}
	victim_thread(thread, 0);
	own(ends[TID][0], TID, tid);
	own(ends[PID][0], PID, getpid());
	own(ends[PGRP][0], PGRP, getpgrp());

	victim_checkpoint();

	expect_int(TID, owner_of(ends[TID][0]).type, "kind of the first owner");
	expect_int(tid, owner_of(ends[TID][0]).pid, "the first owner");
	expect_int(PID, owner_of(ends[PID][0]).type, "kind of the second owner");
	expect_int(getpid(), owner_of(ends[PID][0]).pid, "the second owner");
	expect_int(PGRP, owner_of(ends[PGRP][0]).type, "kind of the third owner");
	expect_int(getpgrp(), owner_of(ends[PGRP][0]).pid, "the third owner");
	return victim_end();
}
