// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Cases 1 to 5: a stopped process, what is pending in it, and what its parent has heard of it.
 *
 * Sub-cases NUMBER-NAME. The parent is the tree's root and observes; in "1-root" the stopped process is the root
 * itself, and the observer stays outside.
 */
#include "gap.h"

static pid_t child;
static int *ran;

static void handler(int sig)
{
	(void)sig;
	__atomic_add_fetch(ran, 1, __ATOMIC_SEQ_CST);
}

static void stopped_child(int how, int handled)
{
	struct sigaction action = { .sa_handler = handler };

	/* In an orphaned process group SIGTSTP, SIGTTIN and SIGTTOU would stop nobody. */
	setpgid(0, 0);
	gap_setmask(0);
	if (handled)
		sigaction(handled, &action, NULL);
	kill(getpid(), how);
	for (;;)
		pause();
}

static void say_waitable(const char *when, int options)
{
	int status;
	pid_t got;

	/* What a restore adds comes late: the status is made when the task is let go. */
	for (int i = 0; i < 30; i++) {
		got = waitpid(child, &status, options | WNOHANG);
		if (got)
			break;
		gap_sleep(10);
	}
	if (got <= 0)
		gap_say("%s: nothing to wait for", when);
	else if (WIFSTOPPED(status))
		gap_say("%s: wait says stopped by SIG%s", when, gap_name(WSTOPSIG(status)));
	else if (WIFCONTINUED(status))
		gap_say("%s: wait says continued", when);
	else if (WIFSIGNALED(status))
		gap_say("%s: wait says killed by SIG%s", when, gap_name(WTERMSIG(status)));
	else
		gap_say("%s: wait says exited", when);
}

static void say_state(void)
{
	char state, names[1024];
	uint64_t pending;

	/* It must not run at any time; whatever it does it does at once. */
	gap_sleep(100);
	state = gap_state(child);
	gap_say("%s", state == 'T'               ? "stopped" :
		      state == 'Z' || state == 0 ? "dead" :
		      state == 'S' || state == 'R' ? "running" :
						     "in another state");
	pending = gap_status(child, 0, "ShdPnd") | gap_status(child, 0, "SigPnd");
	if (state && state != 'Z')
		gap_say("pending: %s", gap_names(pending, names));
}

static void say_sigchld(void)
{
	siginfo_t info;
	char text[128];

	while (gap_take(BIT(SIGCHLD), &info))
		gap_say("a %s", gap_info(&info, text));
}

static void consume_stop(int sig)
{
	siginfo_t info;
	int status;

	if (waitpid(child, &status, WUNTRACED) != child || !WIFSTOPPED(status) || WSTOPSIG(status) != sig)
		gap_die("the child did not stop");
	gap_take(BIT(SIGCHLD), &info);
}

static void root_alone(void)
{
	stopped_child(SIGSTOP, 0);
}

static void case_1_root(void)
{
	child = gap_outside_of(root_alone);
	gap_wait_state(child, 'T');
	kill(child, SIGTERM);
	gap_ready(child);
	gap_wait_for("go");
	say_state();
	kill(child, SIGCONT);
	for (int i = 0; i < 100 && gap_state(child); i++)
		gap_sleep(10);
	gap_say("SIGCONT: %s", gap_state(child) ? "alive" : "dead");
	gap_end();
}

int main(int argc, char **argv)
{
	int how = SIGSTOP, handled = 0;

	gap_begin(argc, argv);
	if (gap_is("1-root"))
		case_1_root();
	ran = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	gap_setmask(BIT(SIGCHLD));
	if (gap_is("1-tstp"))
		how = SIGTSTP;
	if (!strncmp(gap_sub(), "5-ttin", 6))
		how = SIGTTIN;
	if (gap_is("5-ttou"))
		how = SIGTTOU;
	if (gap_is("1-handler"))
		handled = SIGUSR1;
	child = fork();
	if (child < 0)
		gap_die("fork: %m");
	if (!child)
		stopped_child(how, handled);
	gap_wait_state(child, 'T');

	if (*gap_sub() == '1') {
		consume_stop(how);
		kill(child, handled ? handled : SIGTERM);
		gap_checkpoint();
		say_state();
		/* A status of the stop that is told twice is case 2's. */
		waitpid(child, NULL, WUNTRACED | WNOHANG);
		kill(child, SIGCONT);
		if (handled) {
			gap_sleep(100);
			gap_say("SIGCONT: handler ran %d times", *ran);
		} else {
			say_waitable("SIGCONT", 0);
		}
	} else if (*gap_sub() == '2') {
		if (!gap_is("2-waitable"))
			consume_stop(how);
		gap_checkpoint();
		if (gap_is("2-pending")) {
			say_state();
			gap_end();
		}
		say_state();
		say_waitable("parent", WUNTRACED);
		say_waitable("again", WUNTRACED);
		say_sigchld();
		kill(child, SIGCONT);
		say_waitable("SIGCONT", WCONTINUED);
	} else if (*gap_sub() == '3') {
		consume_stop(how);
		kill(child, SIGCONT);
		gap_wait_state(child, 'S');
		gap_checkpoint();
		say_state();
		say_waitable("parent", WCONTINUED);
		say_waitable("again", WCONTINUED);
		say_sigchld();
	} else if (*gap_sub() == '4') {
		consume_stop(how);
		kill(child, SIGTSTP);
		kill(child, SIGTTIN);
		gap_checkpoint();
		say_state();
		say_waitable("parent", WUNTRACED);
		say_sigchld();
		kill(child, SIGCONT);
		say_waitable("SIGCONT", WCONTINUED | WUNTRACED);
		say_state();
	} else {
		if (gap_is("5-ttin-consumed"))
			consume_stop(how);
		gap_checkpoint();
		say_state();
		say_waitable("parent", WUNTRACED);
		say_waitable("again", WUNTRACED);
		say_sigchld();
		kill(child, SIGCONT);
		say_waitable("SIGCONT", WCONTINUED);
	}
	gap_end();
}
