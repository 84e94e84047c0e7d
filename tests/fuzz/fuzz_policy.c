/* Any bytes as a table: policy_check() lets none through that would make decide() read outside it. Any bytes as a host: its
 * canonical form is stable. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "policy.h"

static void check_host(const uint8_t *bytes, uint32_t length)
{
	char once[HOST_MAX + 1], twice[HOST_MAX + 1];
	uint32_t first = policy_canonical_host((const char *)bytes, length, once);
	if (first == 0 || memchr(once, ':', first))
		return;
	if (policy_canonical_host(once, first, twice) != first || memcmp(once, twice, first) != 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static const struct endpoint destination = {.address = {[10] = 0xff, 0xff, 203, 0, 113, 7}, .port = 80};
	uint32_t length = (uint32_t)size;
	check_host(bytes, length);
	if (size < sizeof(struct policy_header))
		return 0;
	uint32_t *table = malloc((size + 3) & ~(size_t)3);
	memcpy(table, bytes, size);
	((struct policy_header *)table)->magic = POLICY_MAGIC;
	((struct policy_header *)table)->size = length;
	if (policy_check(table, length)) {
		for (uint32_t protocol = 0; protocol <= PROTOCOL_OPAQUE; protocol++)
			policy_decide(table, protocol, "my.kv:80", 8, &destination);
		policy_may_dial(table, &destination);
	}
	free(table);
	return 0;
}
