// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A program that somebody looks into by uprobes: one at the instruction behind a system call, where the thread stands when it
 * is stopped, one at the system call itself, and one each at the beginning and at the return of a function that is called all
 * the time. Where they go is in the file `probes`, as offsets in the program's file.
 */
#include "victim.h"

#ifdef __x86_64__
unsigned long probe_function(unsigned long x);
extern char probe_call[], probe_behind[];

/* nanosleep(2), with a label at the call, and one behind it. */
#define NAP(name, call, behind)                                                                    \
	static long name(const struct timespec *time)                                              \
	{                                                                                          \
		long result;                                                                       \
                                                                                                   \
		__asm__ volatile(".globl " call ", " behind "\n" call ":\n\tsyscall\n"             \
				 behind ":\n\ttest %%rax, %%rax\n"                                  \
				 : "=a"(result)                                                    \
				 : "0"(SYS_nanosleep), "D"(time), "S"(0)                           \
				 : "rcx", "r11", "memory");                                        \
		return result;                                                                     \
	}

NAP(nap_to_call, "probe_call", "unused_behind")
NAP(nap_to_behind, "unused_call", "probe_behind")

__asm__(".text\n.globl probe_function\n.type probe_function, @function\n"
	"probe_function:\n\tpush %rbx\n\tmov %rdi, %rbx\n\tlea 1(%rbx), %rax\n\tpop %rbx\n\tret\n");

static void write_probes(void)
{
	unsigned long of[] = { (unsigned long)probe_call, (unsigned long)probe_behind, (unsigned long)probe_function };
	unsigned long start, end, offset;
	char text[128], line[512];
	FILE *maps = fopen("/proc/self/maps", "r");
	int length = 0;

	while (maps && fgets(line, sizeof(line), maps))
		for (size_t i = 0; i < sizeof(of) / sizeof(of[0]); i++)
			if (sscanf(line, "%lx-%lx %*s %lx", &start, &end, &offset) == 3 && start <= of[i] && of[i] < end)
				length += sprintf(text + length, "%s%#lx", length ? " " : "", of[i] - start + offset);
	if (!length)
		victim_die("/proc/self/maps: %m");
	fclose(maps);
	victim_write_file("probes", text);
}
#else
static void write_probes(void)
{
}

#define nap_to_call(time) syscall(SYS_nanosleep, time, NULL)
#define nap_to_behind nap_to_call
static unsigned long probe_function(unsigned long x) { return x + 1; }
#endif

static void naps(int index)
{
	struct timespec time = { .tv_nsec = 3 * 1000 * 1000 };

	victim_settle(-1);
	while (!victim_released())
		expect_int(0, index ? nap_to_call(&time) : nap_to_behind(&time), "nanosleep of thread %d", index);
}

static void calls(int index)
{
	unsigned long x = 0;

	victim_settle(-1);
	while (!victim_released())
		for (int i = 0; i < 1000; i++, x++)
			expect_u64(x + 1, probe_function(x), "call %d", index);
}

int main(int argc, char **argv)
{
	siginfo_t info = info_value(SIGUSR2, 7);

	victim_begin(argc, argv);
	write_probes();
	k_setmask(SIGBIT(SIGUSR2));
	k_queue_shared(&info);
	for (int i = 0; i < 2; i++) {
		victim_thread(naps, i);
		victim_thread(calls, i);
	}
	victim_checkpoint();
	victim_drain();
	return victim_end();
}
