// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Puts itself into the state that a plan describes, waits for GO, and writes what it finds: see README.md.
 *
 * main() is the leader's, which then does as it is told; observe() is the observer's, which does the rest.
 */
#include "chance.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/mman.h>

/* ---- what is said -------------------------------------------------------------------------------------------- */

static char folder[PATH_MAX], out_path[PATH_MAX];
static char prefix[32];
static FILE *report;
struct common *common;

void in_folder(char path[PATH_MAX], const char *name)
{
	if (snprintf(path, PATH_MAX, "%s/%s", folder, name) >= PATH_MAX)
		_exit(3);
}

const char *out_file(void)
{
	return out_path;
}

int has_go(void)
{
	char path[PATH_MAX];

	in_folder(path, "GO");
	return !access(path, F_OK);
}

void tell(const char *text)
{
	int fd = open(out_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		_exit(3);
	close(fd);
}

static void report_open(void)
{
	report = fopen(out_path, "ae");
	if (!report)
		_exit(3);
}

void report_as(const char *begin)
{
	strncpy(prefix, begin, sizeof(prefix) - 1);
	report_open();
}

void report_flush(void)
{
	if (fflush(report))
		_exit(3);
}

void say(const char *text, ...)
{
	va_list args;

	fputs(prefix, report);
	va_start(args, text);
	vfprintf(report, text, args);
	va_end(args);
	fputc('\n', report);
}

static void end_with(const char *line, int code)
{
	tell(line);
	(void)!write(2, line, strlen(line));
	children_kill();
	_exit(code);
}

void bad_plan(const struct line *line, const char *why, ...)
{
	char text[512], whole[1024];
	int n, err = errno;
	va_list args;

	errno = err;
	va_start(args, why);
	vsnprintf(text, sizeof(text), why, args);
	va_end(args);
	n = snprintf(whole, sizeof(whole), "bad plan: ");
	if (line) {
		n += snprintf(whole + n, sizeof(whole) - (size_t)n, "line %d (%s", line->number, line->word[0]);
		for (int i = 1; i < line->count && i < 4; i++)
			n += snprintf(whole + n, sizeof(whole) - (size_t)n, " %.20s", line->word[i]);
		n += snprintf(whole + n, sizeof(whole) - (size_t)n, "): ");
	}
	snprintf(whole + n, sizeof(whole) - (size_t)n, "%s\n", text);
	end_with(whole, 2);
	__builtin_unreachable();
}

void failed(const char *why, ...)
{
	char text[512], whole[600];
	int err = errno;
	va_list args;

	errno = err;
	va_start(args, why);
	vsnprintf(text, sizeof(text), why, args);
	va_end(args);
	snprintf(whole, sizeof(whole), "failed: %s\n", text);
	end_with(whole, 3);
	__builtin_unreachable();
}

/* ---- the plan ------------------------------------------------------------------------------------------------ */

static struct line *lines;
static int line_count;

const struct line *next_line(const struct line *line)
{
	return line + 1 < lines + line_count ? line + 1 : NULL;
}

int is(const struct line *line, int word, const char *text)
{
	return word < line->count && !strcmp(line->word[word], text);
}

int64_t number(const struct line *line, int word, int64_t least, int64_t most)
{
	long long value;
	char *end;

	if (word >= line->count)
		bad_plan(line, "a word is missing");
	errno = 0;
	value = strtoll(line->word[word], &end, 0);
	if (errno || *end || end == line->word[word] || value < least || value > most)
		bad_plan(line, "'%.40s' is no number from %lld to %lld", line->word[word], (long long)least, (long long)most);
	return value;
}

uint64_t hex_text(const struct line *line, const char *text)
{
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 16);
	if (errno || *end || end == text || *text == '-')
		bad_plan(line, "'%.40s' is no hexadecimal number of 64 bits", text);
	return value;
}

uint64_t hex(const struct line *line, int word)
{
	if (word >= line->count)
		bad_plan(line, "a word is missing");
	return hex_text(line, line->word[word]);
}

int signal_of(const struct line *line, int word)
{
	return (int)number(line, word, 1, SIGNALS);
}

const char *option(const struct line *line, int from, const char *name)
{
	size_t length = strlen(name);

	for (int i = from; i < line->count; i++)
		if (!strncmp(line->word[i], name, length) && line->word[i][length] == '=')
			return line->word[i] + length + 1;
	return NULL;
}

static const struct directive {
	const char *name;
	/* How many words there are, with the name. */
	int least, most;
	/* Before anything else, or in its place. */
	int declared;
	void (*run)(struct line *line);
} directives[] = {
	{ "uid", 2, 2, 1, do_uid },
	{ "userns", 1, 1, 1, do_userns },
	{ "pidns", 1, 1, 1, do_pidns },
	{ "thread", 2, 2, 1, do_thread },
	{ "mask", 3, 3, 1, do_mask },
	{ "inside", 3, 3, 1, do_inside },
	{ "wait", 4, 8, 1, do_wait },
	{ "leader-exits", 1, 1, 1, do_leader_exits },
	{ "vfork", 2, 2, 1, do_vfork },
	{ "seccomp", 3, 3, 1, do_seccomp },
	{ "stopped", 2, 2, 1, do_stopped },
	{ "due", 3, 3, 1, do_due },
	{ "refuse", 2, 2, 1, do_refuse },
	{ "later", 5, 5, 1, do_later },
	{ "child-act", 6, 6, 1, do_child_line },
	{ "child-mask", 3, 3, 1, do_child_line },
	{ "child-queue", 7, 8, 1, do_child_line },
	{ "act", 5, 6, 0, do_act },
	{ "altstack", 3, 4, 0, do_altstack },
	{ "limit", 2, 3, 0, do_limit },
	{ "queue", 6, 7, 0, do_queue },
	{ "bit", 3, 3, 0, do_bit },
	{ "timer", 9, 9, 0, do_timer },
	{ "timer-set", 4, 4, 0, do_timer_set },
	{ "timer-wait", 2, 2, 0, do_timer_wait },
	{ "timer-delete", 2, 2, 0, do_timer_delete },
	{ "itimer", 4, 4, 0, do_itimer },
	{ "itimer-wait", 2, 2, 0, do_itimer_wait },
	{ "timerfd", 5, 5, 0, do_timerfd },
	{ "burn", 3, 3, 0, do_burn },
	{ "child", 3, 5, 0, do_child },
	{ "child-send", 3, 3, 0, do_child_send },
};
static int end_deliver;

static void do_end(struct line *line)
{
	if (is(line, 1, "deliver"))
		end_deliver = 1;
	else if (!is(line, 1, "drain"))
		bad_plan(line, "drain or deliver");
}

static const struct directive *directive_of(const struct line *line)
{
	static const struct directive end = { "end", 2, 2, 1, do_end };
	const struct directive *found = NULL;

	for (size_t i = 0; i < sizeof(directives) / sizeof(*directives); i++)
		if (is(line, 0, directives[i].name))
			found = &directives[i];
	if (is(line, 0, end.name))
		found = &end;
	if (!found)
		bad_plan(line, "there is no such directive");
	if (line->count < found->least || line->count > found->most)
		bad_plan(line, "%d words are too few or too many", line->count);
	return found;
}

static void plan_add(char *text, int number)
{
	struct line *line;

	lines = realloc(lines, sizeof(*lines) * (size_t)(line_count + 1));
	if (!lines)
		failed("memory");
	line = &lines[line_count++];
	memset(line, 0, sizeof(*line));
	line->number = number;
	for (char *word = strtok(text, " \t\r"); word; word = strtok(NULL, " \t\r")) {
		if (line->count == WORDS)
			bad_plan(line, "there are too many words");
		line->word[line->count++] = strdup(word);
	}
	if (!line->count)
		line_count--;
}

static void plan_read(const char *path)
{
	FILE *file = fopen(path, "re");
	char *text = NULL;
	size_t size = 0;
	ssize_t n;

	if (!file)
		bad_plan(NULL, "%s: %m", path);
	for (int number = 1; (n = getline(&text, &size, file)) >= 0; number++) {
		text[strcspn(text, "\n")] = 0;
		if (*text != '#')
			plan_add(text, number);
	}
	free(text);
	fclose(file);
	if (!line_count || !is(&lines[0], 0, "plan") || !is(&lines[0], 1, "1") || lines[0].count != 2)
		bad_plan(line_count ? &lines[0] : NULL, "the first line is not 'plan 1'");
	for (int i = 1; i < line_count; i++)
		directive_of(&lines[i]);
}

static void plan_run(int declared)
{
	for (int i = 1; i < line_count; i++) {
		const struct directive *directive = directive_of(&lines[i]);

		if (directive->declared == declared)
			directive->run(&lines[i]);
	}
}

/* ---- the observer -------------------------------------------------------------------------------------------- */

static void set_up(void)
{
	struct thread *t;

	waits_prepare();
	plan_run(0);
	children_complete();
	check_fatal();
	for (t = next_thread(NULL); t; t = next_thread(t))
		if (t->number)
			thread_settle(t);
	thread_settle(&threads[0]);
	if (leader_exits)
		leader_ends();
	for (t = next_thread(NULL); t; t = next_thread(t))
		if (t->wait && wait_is_over(t->wait))
			wait_is_wrong(t->wait);
}

static void look(void)
{
	say("report 1 bits %zu", sizeof(long) * 8);
	say("clock ~ready=%lld ~ready_boot=%lld ~go=%lld ~go_boot=%lld", (long long)common->ready,
	    (long long)common->ready_boot, (long long)common->go, (long long)common->go_boot);
	refused_report();
	limit_report();
	ids_report();
	actions_report();
	timers_settle();
	threads_report(0);
	timers_report();
	children_look();
	refuse_report();
}

static void *observe(void *nothing)
{
	(void)nothing;
	observer.tid = gettid_raw();
	self = &observer;
	threads_start();
	/* Who creates threads has libc's two signals unblocked by that. */
	set_mask(ALL);
	threads_block();
	/* Whoever called may have ignored some, and libc has a handler of its own now. */
	actions_reset();
	set_up();
	timers_at_ready();
	ready_and_wait();
	timers_at_go();
	threads_quiet();
	report_open();
	look();
	waits_report();
	threads_report(1);
	vforks_end();
	threads_leave_handlers();
	/* What has come to handlers until now is blocked, and pending when it has expired once more. */
	timers_settle();
	lists_report();
	later_all();
	if (end_deliver)
		handle_everything();
	else
		take_report();
	common->taken = now(CLOCK_MONOTONIC);
	alive_report();
	log_report();
	ticks_report();
	common->counted = now(CLOCK_MONOTONIC);
	children_end();
	say("age ~taken=%lld ~counted=%lld", (long long)(common->taken - common->begin),
	    (long long)(common->counted - common->go));
	say("done");
	report_flush();
	children_kill();
	proc_leave();
	_exit(0);
}

int main(int argc, char **argv)
{
	pthread_t thread;
	char out[PATH_MAX];

	if (argc != 3) {
		fprintf(stderr, "usage: %s PLAN OUT\n", argv[0]);
		return 2;
	}
	if (!getcwd(folder, sizeof(folder)))
		return 3;
	strncpy(out, argv[2], sizeof(out) - 1);
	if (*out == '/')
		strcpy(out_path, out);
	else
		in_folder(out_path, out);
	/* What whoever called left open may be of a mount that criu does not see. */
	syscall(SYS_close_range, 3u, ~0u, 0);
	/* criu would want --shell-job for what has no session leader in its tree. It may lead one already. */
	setsid();
	tell("");
	plan_read(argv[1]);
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (common == MAP_FAILED)
		failed("mmap: %m");
	common->begin = now(CLOCK_MONOTONIC);
	plan_run(1);
	for (int i = 1; i < line_count; i++)
		declare_threads(&lines[i]);
	others_begin();
	set_mask(ALL);
	self = &threads[0];
	threads[0].tid = gettid_raw();
	if (pthread_create(&thread, NULL, observe, NULL))
		failed("pthread_create");
	serve(&threads[0]);
	return 3;
}
