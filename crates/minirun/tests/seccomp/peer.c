/* Compiles profiles through libseccomp the way runc does, for tests to compare with. Reads from
 * standard input, one word after the other:
 *
 *     names                              ARCH NUMBER NAME of every call that libseccomp knows
 *     profile DEFAULT ARCH... .          actions as the kernel's return values
 *     rule NAME ACTION (INDEX OP VALUE VALUE2)... .
 *     end
 *
 * and answers a profile with `unknown NAME` for the calls it passes over, `last ARCH NUMBER` for the
 * highest number that the profile names, `taken NANOSECONDS` for the work in libseccomp, and `program CODE JT JF K ...`, or `refused CODE`. */
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct instruction {
	uint16_t code;
	uint8_t jt, jf;
	uint32_t k;
};

static const char *arch_names[] = { "x86_64", "x86", "x32", "aarch64", "arm" };
static const uint32_t arch_tokens[] = { SCMP_ARCH_X86_64, SCMP_ARCH_X86, SCMP_ARCH_X32,
					SCMP_ARCH_AARCH64, SCMP_ARCH_ARM };
#define ARCHES 5

static char word[128];

static const char *next(void)
{
	if (scanf("%127s", word) != 1)
		exit(0);
	return word;
}

static int is_end(const char *text)
{
	return strcmp(text, ".") == 0;
}

static void die(const char *what)
{
	fprintf(stderr, "peer: %s\n", what);
	exit(1);
}

static uint32_t arch_of(const char *name)
{
	for (int i = 0; i < ARCHES; i++)
		if (strcmp(name, arch_names[i]) == 0)
			return arch_tokens[i];
	die(name);
	return 0;
}

static void names(void)
{
	for (int arch = 0; arch < ARCHES; arch++) {
		/* Above 1024 are 32-bit arm's private calls. */
		for (int n = 0; n < 1032; n++) {
			int number = n < 1024 ? n : 0xf0000 + n % 8;
			if (arch_tokens[arch] == SCMP_ARCH_X32)
				number |= 0x40000000;
			char *name = seccomp_syscall_resolve_num_arch(arch_tokens[arch], number);
			if (name)
				printf("%s %d %s\n", arch_names[arch], number, name);
			free(name);
		}
	}
	printf(".\n");
}

/* runc's rule: where an argument is named twice, each condition is a rule of its own. */
static int add(scmp_filter_ctx filter, uint32_t action, int call, unsigned count,
	       struct scmp_arg_cmp *args)
{
	unsigned seen[6] = { 0 };
	int repeated = 0;
	for (unsigned i = 0; i < count; i++)
		repeated |= seen[args[i].arg]++;
	if (!repeated)
		return seccomp_rule_add_array(filter, action, call, count, args);
	for (unsigned i = 0; i < count; i++) {
		int failed = seccomp_rule_add_array(filter, action, call, 1, &args[i]);
		if (failed)
			return failed;
	}
	return 0;
}

static uint64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static void print_program(scmp_filter_ctx filter, uint64_t taken)
{
	uint64_t started = now();
	FILE *file = tmpfile();
	struct instruction i;
	if (!file || seccomp_export_bpf(filter, fileno(file)) != 0)
		die("seccomp_export_bpf");
	printf("taken %" PRIu64 "\n", taken + now() - started);
	rewind(file);
	printf("program");
	while (fread(&i, sizeof(i), 1, file) == 1)
		printf(" %u %u %u %u", i.code, i.jt, i.jf, i.k);
	printf("\n");
	fclose(file);
}

static void profile(void)
{
	uint32_t default_action = strtoul(next(), NULL, 10);
	uint32_t arches[8] = { seccomp_arch_native() };
	int last[8] = { 0 };
	unsigned arch_count = 1, rules = 0;
	int failed = 0;
	uint64_t taken = 0, started = now();
	scmp_filter_ctx filter = seccomp_init(default_action);
	if (!filter)
		die("seccomp_init");
	while (!is_end(next())) {
		uint32_t arch = arch_of(word);
		int added = seccomp_arch_add(filter, arch);
		if (added == 0 && arch_count < 8)
			arches[arch_count++] = arch;
		else if (added != -EEXIST)
			die("seccomp_arch_add");
	}
	taken += now() - started;
	while (strcmp(next(), "rule") == 0) {
		struct scmp_arg_cmp args[16];
		unsigned count = 0;
		char name[128];
		strcpy(name, next());
		uint32_t action = strtoul(next(), NULL, 10);
		while (!is_end(next()) && count < 16) {
			args[count].arg = strtoul(word, NULL, 10);
			args[count].op = strtoul(next(), NULL, 10);
			args[count].datum_a = strtoull(next(), NULL, 10);
			args[count].datum_b = strtoull(next(), NULL, 10);
			count++;
		}
		rules++;
		int call = seccomp_syscall_resolve_name(name);
		if (call == __NR_SCMP_ERROR) {
			printf("unknown %s\n", name);
			continue;
		}
		for (unsigned i = 0; i < arch_count; i++) {
			int there = seccomp_syscall_resolve_name_arch(arches[i], name);
			if (there > last[i])
				last[i] = there;
		}
		started = now();
		if (action != default_action && !failed)
			failed = add(filter, action, call, count, args);
		taken += now() - started;
	}
	/* As runc. */
	if (rules > 32)
		seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	for (unsigned i = 0; i < arch_count; i++)
		for (int arch = 0; arch < ARCHES; arch++)
			if (arch_tokens[arch] == arches[i])
				printf("last %s %d\n", arch_names[arch], last[i]);
	if (failed)
		printf("refused %d\n", failed);
	else
		print_program(filter, taken);
	fflush(stdout);
	seccomp_release(filter);
}

int main(void)
{
	for (;;) {
		if (strcmp(next(), "names") == 0)
			names();
		else if (strcmp(word, "profile") == 0)
			profile();
		else
			die(word);
		fflush(stdout);
	}
}
