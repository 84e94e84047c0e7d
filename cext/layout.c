/* SPDX-License-Identifier: Apache-2.0
 *
 * Verifies that a table's offsets and indexes are inside it. Owns nothing. Called for each table that is published.
 */
#include "layout.h"

/* Returns 1 if an array of items of `size` bytes is aligned and lies within `total` bytes. */
static int fits(uint32_t total, struct policy_array array, uint32_t size)
{
	return array.offset % 4 == 0 && array.offset <= total && array.count <= (total - array.offset) / size;
}

static int row_fits(const struct policy_row *row, uint32_t targets)
{
	return row->target < targets || row->target == NO_TARGET;
}

static int parent_fits(uint32_t parent, uint32_t at)
{
	return parent < at || parent == NO_PARENT;
}

static int names_fit(const struct policy_rows *rows, struct policy_array array, uint32_t targets)
{
	if (!fits(rows->size, array, sizeof(struct policy_name)))
		return 0;
	const struct policy_name *names = (const void *)((const uint8_t *)rows + array.offset);
	for (uint32_t i = 0; i < array.count; i++)
		if (names[i].text > rows->size || names[i].length > rows->size - names[i].text ||
		    !parent_fits(names[i].parent, i) || !row_fits(&names[i].row, targets))
			return 0;
	return 1;
}

static int networks_fit(const struct policy_rows *rows, uint32_t targets)
{
	if (!fits(rows->size, rows->networks, sizeof(struct policy_network)))
		return 0;
	const struct policy_network *networks = (const void *)((const uint8_t *)rows + rows->networks.offset);
	for (uint32_t i = 0; i < rows->networks.count; i++)
		if (networks[i].prefix > 128 || !parent_fits(networks[i].parent, i) || !row_fits(&networks[i].row, targets))
			return 0;
	return 1;
}

static int all_fit(const struct policy_rows *rows, uint32_t targets)
{
	if (!fits(rows->size, rows->all, sizeof(struct policy_row)))
		return 0;
	const struct policy_row *all = (const void *)((const uint8_t *)rows + rows->all.offset);
	for (uint32_t i = 0; i < rows->all.count; i++)
		if (!row_fits(&all[i], targets))
			return 0;
	return 1;
}

static int rows_fit(const struct policy_header *header, uint32_t offset)
{
	if (!fits(header->size, (struct policy_array){1, offset}, sizeof(struct policy_rows)))
		return 0;
	const struct policy_rows *rows = (const void *)((const uint8_t *)header + offset);
	uint32_t targets = header->targets.count;
	return rows->size >= sizeof *rows && rows->size <= header->size - offset && names_fit(rows, rows->names, targets) &&
	       names_fit(rows, rows->suffixes, targets) && names_fit(rows, rows->prefixes, targets) &&
	       names_fit(rows, rows->globs, targets) && networks_fit(rows, targets) && all_fit(rows, targets);
}

int policy_check(const void *table, uint32_t size)
{
	const struct policy_header *header = table;
	if (size < sizeof *header || header->magic != POLICY_MAGIC || header->size != size ||
	    !fits(size, header->stages, sizeof(struct policy_stage)) || !fits(size, header->targets, sizeof(uint32_t)) ||
	    !fits(size, header->waits, sizeof(uint16_t)) || header->waits.count > WAITS_MAX || !fits(size, header->ruled, 16) ||
	    !rows_fit(header, header->locals))
		return 0;
	const struct policy_stage *stages = (const void *)((const uint8_t *)table + header->stages.offset);
	for (uint32_t i = 0; i < header->stages.count; i++)
		if (stages[i].on_match > OUTCOME_TARGET || stages[i].on_miss >= OUTCOME_TARGET || !rows_fit(header, stages[i].rows))
			return 0;
	return 1;
}
