// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What is pending in the leader, as the argument says, word by word, with all signals blocked:
 *
 *   s:SIG:CODE  an entry of the shared queue      p:SIG:CODE  an entry of the private queue
 *   t:SIG       the entry of a one-shot POSIX timer that has expired
 *   limit:N     RLIMIT_SIGPENDING from here on
 *   ign:SIG     the signal is ignored             hnd:SIG     the signal has a handler
 *   N*WORD      the word N times
 */
#include "victim.h"

#include <sys/resource.h>

/* Each entry has a value of its own. */
static int values;

static void handler(int sig)
{
	(void)sig;
}

static void dispose(int sig, unsigned long what)
{
	struct k_sigaction action = { .handler = what, .flags = K_SA_RESTORER, .restorer = victim_restorer(0) };

	k_sigaction(sig, &action, NULL);
}

static void expire(int sig)
{
	struct itimerspec spec = { .it_value = { 0, 1000 } }, left;
	struct sigevent event;
	int id;

	memset(&event, 0, sizeof(event));
	event.sigev_notify = SIGEV_SIGNAL;
	event.sigev_signo = sig;
	event.sigev_value.sival_int = values++;
	if (syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &id) || syscall(SYS_timer_settime, id, 0, &spec, NULL))
		victim_die("timer: %m");
	do {
		k_sleep_ms(1);
		if (syscall(SYS_timer_gettime, id, &left))
			victim_die("timer_gettime: %m");
	} while (left.it_value.tv_sec || left.it_value.tv_nsec);
	victim_by_number = 1;
}

static void obey(const char *word)
{
	struct rlimit lim;
	siginfo_t info;
	int sig, code;
	char queue;

	if (sscanf(word, "limit:%d", &sig) == 1) {
		getrlimit(RLIMIT_SIGPENDING, &lim);
		lim.rlim_cur = sig;
		if (setrlimit(RLIMIT_SIGPENDING, &lim))
			victim_die("setrlimit: %m");
	} else if (sscanf(word, "ign:%d", &sig) == 1) {
		dispose(sig, (unsigned long)SIG_IGN);
	} else if (sscanf(word, "hnd:%d", &sig) == 1) {
		dispose(sig, (unsigned long)handler);
	} else if (sscanf(word, "t:%d", &sig) == 1) {
		expire(sig);
	} else if (sscanf(word, "%c:%d:%d", &queue, &sig, &code) == 3 && (queue == 's' || queue == 'p')) {
		info = info_value(sig, values++);
		info.si_code = code;
		if (queue == 's')
			k_queue_shared(&info);
		else
			k_queue_private(&info);
	} else {
		victim_die("%s is no entry", word);
	}
}

int main(int argc, char **argv)
{
	char words[512];

	victim_begin(argc, argv);
	k_setmask(ALL_SIGNALS);
	if (strlen(victim_arg()) >= sizeof(words))
		victim_die("too many words");
	strcpy(words, victim_arg());
	for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
		char *star = strchr(word, '*');
		long times = star ? strtol(word, NULL, 10) : 1;

		while (times-- > 0)
			obey(star ? star + 1 : word);
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
