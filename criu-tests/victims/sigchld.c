// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A SIGCHLD is pending and its child not yet reaped. "exited": status 3, after some processor time, so that
 * si_utime says something. "killed": by SIGTERM.
 */
#include "victim.h"

#include <sys/resource.h>
#include <sys/time.h>

static void burn(int ms)
{
	struct rusage usage;

	do
		getrusage(RUSAGE_SELF, &usage);
	while (usage.ru_utime.tv_sec * 1000 + usage.ru_utime.tv_usec / 1000 +
	       usage.ru_stime.tv_sec * 1000 + usage.ru_stime.tv_usec / 1000 < ms);
}

int main(int argc, char **argv)
{
	int killed, status = 0;
	siginfo_t info;
	pid_t pid;

	victim_begin(argc, argv);
	killed = !strcmp(victim_arg(), "killed");
	k_setmask(SIGBIT(SIGCHLD));
	pid = fork();
	if (pid < 0)
		victim_die("fork: %m");
	if (!pid) {
		burn(60);
		if (killed) {
			kill(getpid(), SIGTERM);
			pause();
		}
		_exit(3);
	}
	while (!(victim_shared_pending() & SIGBIT(SIGCHLD)))
		k_sleep_ms(1);

	victim_checkpoint();

	expect_int(SIGCHLD, k_take(SIGBIT(SIGCHLD), &info), "SIGCHLD is pending");
	expect_int(killed ? CLD_KILLED : CLD_EXITED, info.si_code, "si_code");
	expect_int(pid, info.si_pid, "si_pid");
	expect_int(killed ? SIGTERM : 3, info.si_status, "si_status");
	/* In ticks of 10 ms, charged by sampling: how many is uncertain, none at all would be a loss. */
	if (info.si_utime + info.si_stime < 1)
		victim_fail("si_utime + si_stime", "at least 1", "0");
	expect_int(0, k_take(SIGBIT(SIGCHLD), &info), "second SIGCHLD");
	expect_int(pid, waitpid(-1, &status, WNOHANG), "the zombie is there to be reaped");
	expect_int(killed ? SIGTERM : 3 << 8, status, "its status");
	expect_int(-1, waitpid(-1, &status, WNOHANG), "another child");
	return victim_end();
}
