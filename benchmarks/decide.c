/* Times policy_decide() on a table: decide TABLE HOSTS ROUNDS. Each line of HOSTS is asked for as an HTTP request to an address of
 * its own below 203.0.113.0/24. Prints the mean (of processor time) and the 99th percentile of a decision, in nanoseconds. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy.h"

#define HOSTS_MAX 4096

static double now(clockid_t clock)
{
	struct timespec time;
	clock_gettime(clock, &time);
	return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static void *read_all(const char *path, uint32_t *size)
{
	FILE *file = fopen(path, "rb");
	char *bytes = malloc(1 << 28);
	if (!file || !bytes)
		exit(2);
	*size = (uint32_t)fread(bytes, 1, 1 << 28, file);
	bytes[*size] = 0;
	fclose(file);
	return bytes;
}

static int ascending(const void *one, const void *other)
{
	double difference = *(const double *)one - *(const double *)other;
	return (difference > 0) - (difference < 0);
}

int main(int count, char **arguments)
{
	char *hosts[HOSTS_MAX];
	uint32_t size, length, found = 0, handled = 0, rounds = count == 4 ? (uint32_t)atoi(arguments[3]) : 0;
	void *table = rounds ? read_all(arguments[1], &size) : NULL;
	if (!table || !policy_check(table, size))
		return 2;
	for (char *line = strtok(read_all(arguments[2], &length), "\n"); line && found < HOSTS_MAX; line = strtok(NULL, "\n"))
		hosts[found++] = line;
	double *took = malloc(sizeof *took * found * rounds), began = now(CLOCK_PROCESS_CPUTIME_ID);
	for (uint32_t i = 0; i < found * rounds; i++) {
		struct endpoint to = {.address = {[10] = 0xff, 0xff, 203, 0, 113, (uint8_t)(i * 7)}, .port = 80};
		const char *host = hosts[i % found];
		handled += policy_decide(table, PROTOCOL_HTTP, host, (uint32_t)strlen(host), &to).verdict == VERDICT_HANDLE;
	}
	double mean = (now(CLOCK_PROCESS_CPUTIME_ID) - began) / (found * rounds);
	for (uint32_t i = 0; i < found * rounds; i++) {
		struct endpoint to = {.address = {[10] = 0xff, 0xff, 203, 0, 113, (uint8_t)(i * 7)}, .port = 80};
		const char *host = hosts[i % found];
		double before = now(CLOCK_MONOTONIC);
		handled += policy_decide(table, PROTOCOL_HTTP, host, (uint32_t)strlen(host), &to).verdict == VERDICT_HANDLE;
		took[i] = now(CLOCK_MONOTONIC) - before;
	}
	qsort(took, found * rounds, sizeof *took, ascending);
	printf("%.0f %.0f %u\n", mean, took[(uint32_t)(found * rounds * 0.99)], handled);
	return 0;
}
