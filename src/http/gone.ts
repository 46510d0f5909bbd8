import type { ServerResponse } from 'node:http'

/**
 * Aborts when the client is gone before its answer is complete; at once where it was gone before anybody asked, for an
 * answer says 'close' only once.
 */
export function goneSignal(response: ServerResponse): AbortSignal {
  const gone = new AbortController()
  const closed = () => {
    if (!response.writableFinished) gone.abort()
  }
  if (response.destroyed) closed()
  else response.once('close', closed)
  return gone.signal
}
