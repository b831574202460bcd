// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A parent and a child that have signalled each other. Argument: QUEUED:EXPECTED, the value that each sends and the one
 * that each wants to find. When they look, what is pending in each must come from the other one of these very two, and a
 * SIGUSR2 from pid 1, whoever has put it there.
 */
#include "victim.h"

static int queued, expected;

static void signal_it(pid_t pid)
{
	union sigval value = { .sival_int = queued };

	if (sigqueue(pid, SIGRTMIN + 1, value) || kill(pid, SIGUSR1))
		victim_die("signalling %d: %m", pid);
}

static int check(const char *who, pid_t partner)
{
	const int from[] = { SIGRTMIN + 1, SIGUSR1, SIGUSR2 };
	int errors = 0;
	char what[64];

	for (int i = 0; i < 3; i++) {
		siginfo_t info = { .si_signo = 0 };
		int number = k_take(SIGBIT(from[i]), &info);
		int sender = from[i] == SIGUSR2 ? 1 : partner;

		snprintf(what, sizeof(what), "signal %d of the %s", from[i], who);
		expect_int(from[i], number, "%s", what);
		expect_int(sender, info.si_pid, "%s: its sender", what);
		if (!i)
			expect_int(expected, info.si_value.sival_int, "%s: its value", what);
		errors += number != from[i] || info.si_pid != sender || (!i && info.si_value.sival_int != expected);
	}
	return errors;
}

static void wait_for(const char *name)
{
	char path[PATH_MAX];

	victim_path(path, name);
	while (access(path, F_OK))
		k_sleep_ms(2);
}

int main(int argc, char **argv)
{
	pid_t pid, parent = getpid();
	char text[32];
	int status;

	victim_begin(argc, argv);
	if (sscanf(victim_arg(), "%d:%d", &queued, &expected) != 2)
		victim_die("QUEUED:EXPECTED");
	k_setmask(SIGBIT(SIGRTMIN + 1) | SIGBIT(SIGUSR1) | SIGBIT(SIGUSR2));
	pid = fork();
	if (pid < 0)
		victim_die("fork: %m");
	if (!pid) {
		signal_it(parent);
		victim_write_file("signalled", "");
		wait_for("go");
		_exit(check("child", parent) ? 1 : 0);
	}
	signal_it(pid);
	wait_for("signalled");
	snprintf(text, sizeof(text), "%d", pid);
	victim_write_file("child", text);
	victim_write_file("ready", "");
	wait_for("go");
	check("parent", pid);
	expect_int(pid, waitpid(pid, &status, 0), "waiting for the child");
	expect_int(0, status, "the child's exit status");
	return victim_end();
}
