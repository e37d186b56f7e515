// The order of the list: newest first, with the calls of a conversation together.

/**
 * Group rows by conversation.
 * @param {Array<object>} rows  newest first
 * @param {Set<string>} opened  threads that are unfolded
 * @returns {Array<{row: object, depth: number, more: number, thread: string}>}  lines: a thread shows its newest
 *   call, and below it, when unfolded, the earlier ones; `more` is how many those are
 */
export function lines(rows, opened) {
  const threads = new Map();
  for (const row of rows) {
    const key = row.thread ? `${row.client} ${row.thread}` : row.id;
    if (!threads.has(key)) threads.set(key, []);
    threads.get(key).push(row);
  }
  const found = [];
  for (const [thread, members] of threads) {
    found.push({ row: members[0], depth: 0, more: members.length - 1, thread });
    if (opened.has(thread)) {
      for (const row of members.slice(1)) found.push({ row, depth: 1, more: 0, thread });
    }
  }
  return found;
}
