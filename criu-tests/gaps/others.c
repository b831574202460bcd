// SPDX-License-Identifier: GPL-2.0-or-later
/* Cases 21 to 23: the parent's death, the own death and its signal, the alternate stack. */
#include "gap.h"

#include <linux/sched.h>
#include <sys/prctl.h>

/*
 * As many bytes as nothing else in an image is: the runner finds it there and writes SMALLER in its place, which
 * is what an image from a machine with smaller signal frames looks like here.
 */
#define STACK_SIZE 124076833

static void root(void)
{
	if (prctl(PR_SET_PDEATHSIG, SIGTERM))
		gap_die("prctl: %m");
	gap_setmask(0);
	gap_touch("set-up");
	for (;;) {
		int sig = 0;

		if (gap_has("go") && !prctl(PR_GET_PDEATHSIG, &sig) && sig == SIGTERM)
			gap_touch("has-signal");
		gap_sleep(20);
	}
}

static int is_alive(pid_t pid)
{
	return gap_state(pid) && gap_state(pid) != 'Z';
}

static void case_21(void)
{
	pid_t pid = gap_outside_of(root);

	gap_wait_for("set-up");
	gap_ready(pid);
	gap_wait_for("go");
	for (int i = 0; i < 500 && is_alive(pid) && !gap_has("has-signal"); i++)
		gap_sleep(20);
	gap_sleep(200);
	gap_say("%s", is_alive(pid) ? "alive" : "dead");
	if (gap_has("has-signal") && is_alive(pid))
		gap_say("parent-death signal: SIGTERM");
	gap_end();
}

static void case_22(int sig)
{
	struct clone_args args = { .exit_signal = (uint64_t)sig };
	char names[1024];
	pid_t pid;
	int status;

	gap_setmask(ALL);
	pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		gap_die("clone3: %m");
	if (!pid) {
		gap_setmask(0);
		for (;;)
			pause();
	}
	gap_checkpoint();
	kill(pid, SIGKILL);
	gap_wait_state(pid, 'Z');
	gap_say("child ended: %s", gap_names(gap_status(getpid(), 0, "ShdPnd"), names));
	gap_say("wait %s", waitpid(pid, &status, WNOHANG) == pid ? "finds it" : "does not find it");
	gap_say("wait with __WCLONE %s", waitpid(pid, &status, WNOHANG | __WCLONE) == pid ? "finds it" : "does not find it");
	gap_end();
}

/* What is found of children that had ended before. */
static void case_22_ended(const int *ends, int count)
{
	pid_t pids[8];
	int status;

	for (int i = 0; i < count; i++) {
		pids[i] = fork();
		if (pids[i] < 0)
			gap_die("fork: %m");
		if (!pids[i]) {
			if (ends[i] < 0) {
				gap_setmask(0);
				kill(getpid(), -ends[i]);
			}
			_exit(ends[i]);
		}
		gap_wait_state(pids[i], 'Z');
	}
	gap_checkpoint();
	for (int i = 0; i < count; i++) {
		if (waitpid(pids[i], &status, WNOHANG) != pids[i])
			gap_say("child %d is gone", i);
		else if (WIFEXITED(status))
			gap_say("child %d: exit status %d", i, WEXITSTATUS(status));
		else
			gap_say("child %d: ended by %s", i, gap_name(WTERMSIG(status)));
	}
	gap_end();
}

static char *stack;
static volatile int on_stack = -1;

static void handler(int sig)
{
	char here;

	(void)sig;
	on_stack = &here >= stack && &here < stack + STACK_SIZE;
}

static void case_23(void)
{
	struct sigaction action = { .sa_handler = handler, .sa_flags = SA_ONSTACK };
	stack_t ss = { .ss_size = STACK_SIZE };

	stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	ss.ss_sp = stack;
	if (stack == MAP_FAILED || sigaltstack(&ss, NULL) || sigaction(SIGUSR1, &action, NULL))
		gap_die("sigaltstack: %m");
	gap_setmask(0);
	gap_checkpoint();
	sigaltstack(NULL, &ss);
	gap_say("alternate stack %s", ss.ss_flags & SS_DISABLE ? "gone" : ss.ss_size == STACK_SIZE ? "there" : "changed");
	kill(getpid(), SIGUSR1);
	gap_say("handler on %s", on_stack < 0 ? "no stack: it did not run" : on_stack ? "the alternate stack" : "the main stack");
	gap_end();
}

int main(int argc, char **argv)
{
	gap_begin(argc, argv);
	if (gap_is("21"))
		case_21();
	if (gap_is("22-usr1"))
		case_22(SIGUSR1);
	if (gap_is("22-none"))
		case_22(0);
	if (gap_is("22-status"))
		case_22_ended((int[]){ 0, 127, 128, 163, 255, -SIGKILL }, 6);
	if (gap_is("23"))
		case_23();
	gap_die("no such sub-case");
}
