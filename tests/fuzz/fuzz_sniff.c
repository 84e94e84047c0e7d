/* Any bytes, whole and cut short: sniff() stays inside them, and with `final` it always answers. */
#include <stdint.h>
#include <stdlib.h>

#include "policy.h"
#include "sniff.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	struct opening opening;
	uint32_t length = size > OPENING_MAX ? OPENING_MAX : (uint32_t)size;
	sniff(bytes, length, 0, &opening);
	if (opening.host_length > HOST_MAX || opening.host[opening.host_length] != 0)
		abort();
	uint32_t known = opening.protocol;
	sniff(bytes, length, 1, &opening);
	if (opening.protocol == PROTOCOL_NONE || (known && known != opening.protocol))
		abort();
	return 0;
}
