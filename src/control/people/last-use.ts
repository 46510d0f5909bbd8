import { messageOf } from '../../base/errors.ts'
import type { Logger } from '../../base/log.ts'
import type { Store } from '../store/store.ts'

/** How exactly the last use of a key or a session is known: each use would be a write otherwise. */
const everyMs = 60_000
/** Those of which it has been said that they take no writes, until they do again. */
const deaf = new WeakSet<Store>()

/**
 * Has `write` note a use, if the one before is long enough ago. That the database does not take it (its disk is full, say)
 * turns nobody away who may come to read, or to make room.
 */
export async function noteUse(
  store: Store,
  log: Pick<Logger, 'warn'>,
  before: number | null,
  write: (nowMs: number) => Promise<unknown>,
): Promise<void> {
  const nowMs = store.clock.unixMs()
  if (nowMs - (before ?? 0) < everyMs) return
  try {
    await write(nowMs)
    deaf.delete(store)
  } catch (error) {
    if (!deaf.has(store)) log.warn({ err: error }, `last uses are not written down: ${messageOf(error)}`)
    deaf.add(store)
  }
}
