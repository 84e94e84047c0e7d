/* Fuzzes policy.c with arbitrary bytes as a table: no decision reads outside a table that policy_check() accepts. And
 * hosts.c with arbitrary bytes as a host: the canonical form of a canonical name is the same name. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "guard.h"
#include "policy.h"

static void check_host(const uint8_t *bytes, uint32_t length)
{
	char once[HOST_MAX + 1], twice[HOST_MAX + 1];
	uint32_t first = host_canonical((const char *)bytes, length, once);
	if (first == 0 || memchr(once, ':', first))
		return;
	if (host_canonical(once, first, twice) != first || memcmp(once, twice, first) != 0)
		abort();
}

/* Calls every function on a well-formed table. The caller also passes the input's last bytes as a host, so that the
 * host can be one in the table. */
static void ask(const void *table, const char *host, uint32_t host_length)
{
	static const struct endpoint destinations[] = {
		{.address = {[10] = 0xff, 0xff, 203, 0, 113, 7}, .port = 80},
		{.address = {0, 0x64, 0xff, 0x9b, [12] = 203, 0, 113, 7}, .port = 22},
	};
	for (uint32_t protocol = 0; protocol <= PROTOCOL_OPAQUE + 1; protocol++)
		for (uint32_t i = 0; i < 3; i++) {
			struct decision one = policy_decide(table, protocol, host, host_length, i < 2 ? &destinations[i] : NULL);
			struct decision other = policy_decide(table, protocol, host, host_length, i < 2 ? &destinations[i] : NULL);
			if (!policy_same(&one, &other) || one.verdict > VERDICT_HANDLE)
				abort();
		}
	uint32_t offsets[4], count = policy_list_rows(table, 0, host, host_length, &destinations[0], offsets, 4);
	for (uint32_t i = 0; i < count && i < 4; i++)
		if (offsets[i] >= ((const struct policy_header *)table)->size)
			abort();
	policy_decide_name(table, host, host_length);
	policy_names_host(table, host, host_length, &destinations[0]);
	policy_differs(table);
	policy_waits(table, 443);
	guard_is_local(destinations[1].address);
	guard_names(table, &destinations[1]);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	uint32_t length = (uint32_t)size;
	check_host(bytes, length);
	if (size < sizeof(struct policy_header))
		return 0;
	uint32_t *table = malloc(size);
	memcpy(table, bytes, size);
	((struct policy_header *)table)->magic = POLICY_MAGIC;
	((struct policy_header *)table)->size = length;
	if (policy_check(table, length)) {
		ask(table, "my.kv:80", 8);
		ask(table, "[64:ff9b::cb00:7107]", 20);
		ask(table, (const char *)bytes + size - (size < 8 ? size : 8), size < 8 ? length : 8);
	}
	free(table);
	return 0;
}
