// SPDX-License-Identifier: GPL-2.0-or-later
/* Dispositions, the program's handlers, and the log that these write. */
#include "chance.h"

#define LOG 12000
#define MIN_STACK 16384
#ifndef SA_RESTORER
#define SA_RESTORER 0x04000000
#endif

struct entry {
	int thread, sig, alternate, has_info;
	uint64_t mask;
	siginfo_t info;
};
static struct entry entries[LOG];
static int logged;

#if defined(__x86_64__)
__asm__("chance_restore_rt:\n\tmov $15, %eax\n\tsyscall\n");
#elif defined(__aarch64__)
__asm__("chance_restore_rt:\n\tmov x8, #139\n\tsvc #0\n");
#else
/* A handler without SA_SIGINFO has the old frame, with another way back and the number on top of it. */
__asm__("chance_restore:\n\tpop %eax\n\tmov $119, %eax\n\tint $0x80\n");
__asm__("chance_restore_rt:\n\tmov $173, %eax\n\tint $0x80\n");
extern void chance_restore(void);
#endif
extern void chance_restore_rt(void);

/* ---- handlers ------------------------------------------------------------------------------------------------ */

static void handle(int sig, const siginfo_t *info, void *context)
{
	struct entry *entry;
	char *sp = __builtin_frame_address(0);
	int err = errno, at;

	if (inside_handler(sig, context)) {
		errno = err;
		return;
	}
	if (self)
		__atomic_add_fetch(&self->handled, 1, __ATOMIC_SEQ_CST);
	if (timer_ticked(sig, info))
		return;
	at = __atomic_fetch_add(&logged, 1, __ATOMIC_SEQ_CST);
	if (at >= LOG)
		return;
	entry = &entries[at];
	entry->thread = self ? self->number : -1;
	entry->sig = sig;
	entry->has_info = info != NULL;
	if (info)
		entry->info = *info;
	entry->alternate = self && self->stack && sp >= (char *)self->stack && sp < (char *)self->stack + self->stack_size;
	entry->mask = get_mask();
	errno = err;
}

static void with_info(int sig, siginfo_t *info, void *context)
{
	handle(sig, info, context);
}

static void without_info(int sig)
{
	handle(sig, NULL, NULL);
}

void log_reset(void)
{
	logged = 0;
}

/* By thread: which of two threads was first is chance. */
static void log_of(int thread, int count)
{
	char text[INFO_TEXT];
	int n = 0;

	for (int i = 0; i < count; i++)
		if (entries[i].thread == thread)
			say("log %d %d %d %s stack=%s mask=%016llx", thread, n++, entries[i].sig,
			    entries[i].has_info ? info_text(&entries[i].info, text) : "-",
			    entries[i].alternate ? "alt" : "main", (unsigned long long)entries[i].mask);
}

void log_report(void)
{
	int count = __atomic_load_n(&logged, __ATOMIC_SEQ_CST);

	for (int thread = -1; thread < THREADS; thread++)
		log_of(thread, count < LOG ? count : LOG);
	if (count > LOG)
		say("log lost %d", count - LOG);
}

/* ---- dispositions -------------------------------------------------------------------------------------------- */

static void own_handler(struct action *action)
{
	int info = (action->flags & SA_SIGINFO) != 0;

	action->handler = info ? (unsigned long)with_info : (unsigned long)without_info;
	action->flags |= SA_RESTORER;
	action->restorer = (unsigned long)chance_restore_rt;
#ifdef __i386__
	if (!info)
		action->restorer = (unsigned long)chance_restore;
#endif
}

static struct action action_of(const struct line *line, int from)
{
	struct action action = { .flags = (unsigned long)hex(line, from + 2), .mask = hex(line, from + 3) };

	if (hex(line, from + 2) >> 32)
		bad_plan(line, "flags are 32 bits");
	if (is(line, from + 1, "handler"))
		own_handler(&action);
	else if (is(line, from + 1, "ignore"))
		action.handler = (unsigned long)SIG_IGN;
	else if (!strncmp(line->word[from + 1], "0x", 2))
		action.handler = (unsigned long)hex(line, from + 1);
	else if (!is(line, from + 1, "default"))
		bad_plan(line, "'%.20s' is none of default, ignore, handler, 0xADDRESS", line->word[from + 1]);
	if (from + 4 < line->count)
		action.restorer = (unsigned long)hex(line, from + 4);
	return action;
}

void act_from(const struct line *line, int from)
{
	struct action action = action_of(line, from);

	if (set_action(signal_of(line, from), &action))
		bad_plan(line, "rt_sigaction: %m");
}

void actions_reset(void)
{
	struct action none = { 0 };

	for (int sig = 1; sig <= SIGNALS; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && set_action(sig, &none))
			failed("rt_sigaction(%d): %m", sig);
}

void do_act(struct line *line)
{
	act_from(line, 1);
}

static const struct line *later[SIGNALS];
static int laters;

void do_later(struct line *line)
{
	signal_of(line, 1);
	action_of(line, 1);
	if (laters == SIGNALS)
		bad_plan(line, "there are too many of these");
	later[laters++] = line;
}

void later_all(void)
{
	for (int i = 0; i < laters; i++)
		act_from(later[i], 1);
}

static int is_own(const struct action *action)
{
	return action->handler == (unsigned long)with_info || action->handler == (unsigned long)without_info;
}

static void say_action(int sig, const struct action *action)
{
	char handler[32], restorer[32];

	if (is_own(action))
		strcpy(handler, action->handler == (unsigned long)with_info ? "handler-info" : "handler");
	else if (action->handler == (unsigned long)SIG_IGN)
		strcpy(handler, "ignore");
	else if (action->handler == (unsigned long)SIG_DFL)
		strcpy(handler, "default");
	else
		snprintf(handler, sizeof(handler), "%lx", action->handler);
	if (action->restorer == (unsigned long)chance_restore_rt)
		strcpy(restorer, "own");
#ifdef __i386__
	else if (action->restorer == (unsigned long)chance_restore)
		strcpy(restorer, "own-old");
#endif
	else
		snprintf(restorer, sizeof(restorer), "%lx", action->restorer);
	say("act %d %s %lx %016llx %s", sig, handler, action->flags, (unsigned long long)action->mask,
	    action->restorer ? restorer : "none");
}

void actions_report(void)
{
	for (int sig = 1; sig <= SIGNALS; sig++) {
		struct action action = { 0 };

		if (get_action(sig, &action))
			failed("rt_sigaction(%d): %m", sig);
		if (action.handler || action.flags || action.mask || action.restorer)
			say_action(sig, &action);
	}
}

/* ---- what would end the process ------------------------------------------------------------------------------ */

int is_fatal(int sig)
{
	struct action action = { 0 };

	if (get_action(sig, &action))
		failed("rt_sigaction(%d): %m", sig);
	if (action.handler == (unsigned long)SIG_DFL)
		return sig != SIGCHLD && sig != SIGURG && sig != SIGWINCH && sig != SIGCONT;
	return action.handler != (unsigned long)SIG_IGN && !is_own(&action);
}

static void check_stack(const struct thread *t, uint64_t open)
{
	if (!t->stack || t->stack_size >= MIN_STACK)
		return;
	for (int sig = 1; sig <= SIGNALS; sig++) {
		struct action action = { 0 };

		if ((open & BIT(sig)) && !get_action(sig, &action) && is_own(&action) && (action.flags & SA_ONSTACK))
			bad_plan(NULL, "thread %d could get signal %d on an alternate stack of less than %d bytes", t->number, sig,
				 MIN_STACK);
	}
}

void check_fatal(void)
{
	uint64_t shared = status_set(getpid(), observer.tid, "ShdPnd") | timer_signals(-1) | due_signals(-1);

	for (struct thread *t = next_thread(NULL); t; t = next_thread(t)) {
		uint64_t open = ~(t->mask & wait_mask(t));
		uint64_t pending =
			shared | status_set(getpid(), t->tid, "SigPnd") | timer_signals(t->number) | due_signals(t->number);

		for (int sig = 1; sig <= SIGNALS; sig++)
			if ((pending & open & BIT(sig)) && is_fatal(sig))
				bad_plan(NULL, "signal %d would end or stop the process when thread %d gets it", sig, t->number);
		check_stack(t, open);
	}
}

static void open_in(struct thread *t, void *mask)
{
	(void)t;
	set_mask(*(uint64_t *)mask);
	set_mask(ALL);
}

void handle_everything(void)
{
	struct action action = { .flags = SA_SIGINFO, .mask = ALL };
	uint64_t none = 0;

	own_handler(&action);
	for (int sig = 1; sig <= SIGNALS; sig++)
		if (sig != SIGKILL && sig != SIGSTOP && set_action(sig, &action))
			failed("rt_sigaction(%d): %m", sig);
	for (struct thread *t = next_thread(NULL); t; t = next_thread(t))
		run_in(t, open_in, &none);
}
