// SPDX-License-Identifier: GPL-2.0-or-later
/* Children of the process: stopped, continued, dead, or asleep. */
#include "chance.h"

#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define LINES 64
#define HELPERS 64

enum { BORN, STANDS, REPORTED };

static struct child {
	int made;
	pid_t pid;
	const struct line *lines[LINES];
	int line_count;
	/* It has ended before the process was ready. */
	int dead;
	/* It was stopped then. */
	int stopped;
} children[CHILDREN];
static struct thread in_child = { .number = 0 };
static pid_t helpers[HELPERS];
static int helper_count;

pid_t helper(void (*run)(void))
{
	pid_t pid;

	if (helper_count == HELPERS)
		bad_plan(NULL, "too many processes");
	/* Of those that are waited for: its end is a SIGCHLD as that of any child. */
	pid = fork();
	if (pid < 0)
		failed("fork: %m");
	if (!pid) {
		run();
		_exit(0);
	}
	helpers[helper_count++] = pid;
	return pid;
}

int is_child(pid_t pid)
{
	for (int i = 0; i < CHILDREN; i++)
		if (children[i].pid == pid)
			return 1;
	for (int i = 0; i < helper_count; i++)
		if (helpers[i] == pid)
			return 1;
	for (int i = 0; i < THREADS; i++)
		if (threads[i].vfork_child == pid)
			return 1;
	return 0;
}

void children_kill(void)
{
	for (int i = 0; i < CHILDREN; i++)
		if (children[i].pid > 0)
			kill(children[i].pid, SIGKILL);
	for (int i = 0; i < helper_count; i++)
		kill(helpers[i], SIGKILL);
}

static int child_of(const struct line *line)
{
	return (int)number(line, 1, 0, CHILDREN - 1);
}

static int number_of_exit(const struct line *line)
{
	return (int)number(line, 3, 0, 255);
}

/* Whether a status can be waited for. */
static int waitid_peek(pid_t pid)
{
	siginfo_t info = { 0 };

	return !waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT) && info.si_pid == pid;
}

void do_child_line(struct line *line)
{
	struct child *child = &children[child_of(line)];

	if (child->line_count == LINES)
		bad_plan(line, "no child has more than %d lines", LINES);
	child->lines[child->line_count++] = line;
}

/* ---- in the child -------------------------------------------------------------------------------------------- */

static void stage(int number, int value)
{
	__atomic_store_n(&common->child[number].stage, value, __ATOMIC_SEQ_CST);
	futex_wake(&common->child[number].stage);
}

static uint64_t prepare_child(const struct child *child)
{
	uint64_t mask = ALL;

	for (int i = 0; i < child->line_count; i++) {
		const struct line *line = child->lines[i];

		if (is(line, 0, "child-act"))
			act_from(line, 2);
		else if (is(line, 0, "child-mask"))
			mask = hex(line, 2);
		else if (is(line, 2, "shared"))
			queue_from(line, 3, 1);
		else if (is(line, 2, "0"))
			queue_from(line, 3, 0);
		else
			bad_plan(line, "a child has the queues 'shared' and '0'");
	}
	return mask;
}

static void report_child(int number)
{
	char prefix[32], text[INFO_TEXT];
	uint64_t mask = get_mask();
	siginfo_t info;

	snprintf(prefix, sizeof(prefix), "child %d ", number);
	set_mask(ALL);
	report_as(prefix);
	actions_report();
	say("status SigPnd=%016llx ShdPnd=%016llx mask=%016llx", (unsigned long long)status_set(getpid(), getpid(), "SigPnd"),
	    (unsigned long long)status_set(getpid(), getpid(), "ShdPnd"), (unsigned long long)mask);
	while (take(ALL, &info))
		say("take %s", info_text(&info, text));
	log_report();
	report_flush();
	stage(number, REPORTED);
}

/* Asleep without a timeout, as the threads are. */
static void park(int number)
{
	int *order = &common->child[number].order;

	while (!__atomic_load_n(order, __ATOMIC_SEQ_CST))
		futex_wait(order, 0, -1);
	report_child(number);
	for (;;)
		sleep_ns(3600 * SECOND);
}

static void die_by(const struct line *line)
{
	struct action none = { 0 };
	int sig = signal_of(line, 3);

	prctl(PR_SET_DUMPABLE, 0);
	set_action(sig, &none);
	set_mask(ALL & ~BIT(sig));
	kill(getpid(), sig);
	bad_plan(line, "this signal does not kill it");
}

static void can_stop(const struct line *line, int sig)
{
	struct action action = { 0 };

	if (get_action(sig, &action) || action.handler != (unsigned long)SIG_DFL)
		bad_plan(line, "signal %d is ignored or has a handler in the child", sig);
}

static void run_child(int number, const struct line *line)
{
	uint64_t mask;
	int sig;

	self = &in_child;
	in_child.tid = getpid();
	log_reset();
	/* A process group of its own, which is not orphaned: SIGTSTP and its like do not stop it else. */
	if (setpgid(0, 0))
		failed("setpgid: %m");
	mask = prepare_child(&children[number]);
	if (line && is(line, 2, "zombie"))
		_exit(number_of_exit(line));
	if (line && is(line, 2, "killed"))
		die_by(line);
	sig = line && !is(line, 2, "running") ? signal_of(line, 3) : 0;
	if (sig)
		can_stop(line, sig);
	if (sig)
		mask &= ~BIT(sig);
	set_mask(mask);
	stage(number, STANDS);
	if (sig)
		kill(getpid(), sig);
	park(number);
}

/* ---- in the process ------------------------------------------------------------------------------------------ */

static void wait_stage(int number, pid_t pid, int value)
{
	int *word = &common->child[number].stage;
	int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;

	for (int seen; (seen = __atomic_load_n(word, __ATOMIC_SEQ_CST)) != value;) {
		/* It has said why. */
		if (strchr("ZX", state_of(pid, pid))) {
			children_kill();
			_exit(2);
		}
		if (now(CLOCK_MONOTONIC) > end)
			failed("child %d is not ready", number);
		futex_wait(word, seen, 20 * MS);
	}
}

static void wait_asleep(int number, pid_t pid)
{
	int64_t end = now(CLOCK_MONOTONIC) + PATIENCE_NS;

	/* In futex(2), or on the way there; a child that was stopped first is not asleep yet. */
	for (int seen = 0; seen < 3;) {
		if (now(CLOCK_MONOTONIC) > end)
			failed("child %d does not come to wait", number);
		seen = state_of(pid, pid) == 'S' ? seen + 1 : 0;
		sleep_ns(MS / 2);
	}
}

static void consume(const struct line *line, pid_t pid, int what)
{
	siginfo_t info;

	if (waitid(P_PID, (id_t)pid, &info, what))
		bad_plan(line, "waitid: %m");
}

/* The state of a child shows before its parent is told: wait for that, or the next child's may come first. */
static void wait_told(int stops)
{
	struct action action;
	int64_t end = now(CLOCK_MONOTONIC) + 200 * MS;

	if (get_action(SIGCHLD, &action))
		failed("rt_sigaction: %m");
	if (stops && action.flags & SA_NOCLDSTOP)
		return;
	/* All threads block it until everything is set up. */
	while (!(status_set(getpid(), getpid(), "ShdPnd") & BIT(SIGCHLD)) && now(CLOCK_MONOTONIC) < end)
		sleep_ns(MS / 5);
}

static void bring_into_state(const struct line *line, int number, pid_t pid)
{
	int consumed = line && line->count > 3 && is(line, line->count - 1, "consumed");

	if (line && (is(line, 2, "zombie") || is(line, 2, "killed"))) {
		wait_state(pid, 'Z');
		wait_told(0);
		children[number].dead = 1;
		return;
	}
	wait_stage(number, pid, STANDS);
	if (!line || is(line, 2, "running")) {
		wait_asleep(number, pid);
		return;
	}
	wait_state(pid, 'T');
	wait_told(1);
	if (is(line, 2, "stopped")) {
		if (consumed)
			consume(line, pid, WSTOPPED);
		children[number].stopped = 1;
		return;
	}
	kill(pid, SIGCONT);
	wait_asleep(number, pid);
	if (consumed)
		consume(line, pid, WCONTINUED);
}

static void make_child(int number, const struct line *line)
{
	struct child *child = &children[number];
	pid_t pid = fork();

	if (pid < 0)
		failed("fork: %m");
	if (!pid)
		run_child(number, line);
	child->made = 1;
	child->pid = pid;
	bring_into_state(line, number, pid);
}

void do_child(struct line *line)
{
	int n = child_of(line), stops = is(line, 2, "stopped") || is(line, 2, "continued");
	int words = is(line, 2, "running") ? 3 : 4;

	if (children[n].made)
		bad_plan(line, "there is such a child already");
	if (line->count < words || (line->count > words && !(stops && line->count == 5 && is(line, 4, "consumed"))))
		bad_plan(line, "too few or too many words of this kind of child");
	if (stops) {
		int sig = signal_of(line, 3);

		if (sig != SIGSTOP && sig != SIGTSTP && sig != SIGTTIN && sig != SIGTTOU)
			bad_plan(line, "signal %d stops nothing", sig);
	} else if (is(line, 2, "zombie")) {
		number_of_exit(line);
	} else if (is(line, 2, "killed")) {
		signal_of(line, 3);
	} else if (!is(line, 2, "running")) {
		bad_plan(line, "'%.20s' is none of running, stopped, continued, zombie, killed", line->word[2]);
	}
	make_child(n, line);
}

static void exists(int number)
{
	if (!children[number].made)
		make_child(number, NULL);
}

void do_child_send(struct line *line)
{
	int n = child_of(line), sig = signal_of(line, 2);

	if (sig == SIGKILL || sig == SIGSTOP || sig == SIGCONT)
		bad_plan(line, "this signal does not stay pending, or continues the child");
	exists(n);
	if (kill(children[n].pid, sig))
		bad_plan(line, "kill: %m");
	/* One that runs and is not stopped may have a handler, or end. */
	if (!children[n].dead && state_of(children[n].pid, children[n].pid) != 'T')
		wait_asleep(n, children[n].pid);
}

void children_complete(void)
{
	for (int i = 0; i < CHILDREN; i++)
		if (children[i].line_count)
			exists(i);
}

/* ---- the report ---------------------------------------------------------------------------------------------- */

/*
 * A stop by a tracer that is about to leave is no state of the child. One that was stopped before, and was let go by the
 * tracer, runs for a moment on its way back into the stop; one that is really continued stays running.
 */
static char state_untraced(const struct child *child)
{
	struct patience left = patience(2 * SECOND, 1000);
	char state = state_of(child->pid, child->pid);

	while ((state == 't' || (child->stopped && state && !strchr("TZX", state))) && is_patient(&left)) {
		sleep_ns(MS);
		state = state_of(child->pid, child->pid);
	}
	return state ?: '-';
}

void children_look(void)
{
	for (int i = 0; i < CHILDREN; i++) {
		siginfo_t info = { 0 };
		pid_t pid = children[i].pid;

		if (!children[i].made)
			continue;
		say("child %d state %c", i, state_untraced(&children[i]));
		if (waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG | WNOWAIT))
			say("child %d status errno=%d", i, errno);
		else if (!info.si_pid)
			say("child %d status none", i);
		else
			say("child %d status code=%d value=%d", i, info.si_code, info.si_status);
	}
}

/* Every status that comes, until it has ended or said all. */
static int statuses(int number, pid_t pid)
{
	siginfo_t info = { 0 };

	if (waitid(P_PID, (id_t)pid, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG))
		return 1;
	if (!info.si_pid)
		return 0;
	say("child %d then code=%d value=%d", number, info.si_code, info.si_status);
	return info.si_code == CLD_EXITED || info.si_code == CLD_KILLED || info.si_code == CLD_DUMPED;
}

static void end_child(int number)
{
	int *order = &common->child[number].order, *done = &common->child[number].stage;
	struct patience left = patience(LATE_NS, 250);
	pid_t pid = children[number].pid;

	while (waitid_peek(pid) == 1 && !statuses(number, pid))
		;
	report_flush();
	if (state_of(pid, pid) == 'T')
		kill(pid, SIGCONT);
	__atomic_store_n(order, 1, __ATOMIC_SEQ_CST);
	futex_wake(order);
	while (__atomic_load_n(done, __ATOMIC_SEQ_CST) != REPORTED && state_of(pid, pid) != 'Z' && state_of(pid, pid)) {
		if (!is_patient(&left)) {
			say("child %d hangs in state %c", number, state_of(pid, pid) ?: '-');
			break;
		}
		futex_wait(done, STANDS, 20 * MS);
	}
	while (waitid_peek(pid) == 1 && !statuses(number, pid))
		;
	if (kill(pid, SIGKILL))
		return;
	left = patience(LATE_NS, 1000);
	while (!statuses(number, pid) && is_patient(&left))
		sleep_ns(MS / 2);
}

void children_end(void)
{
	for (int i = 0; i < CHILDREN; i++)
		if (children[i].made)
			end_child(i);
}
