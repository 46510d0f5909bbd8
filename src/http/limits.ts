/** Every bound that a connection can run into. Reaching one is an answer or a cut, never a growing queue. */
export interface HttpLimits {
  /** Open connections; a connection beyond them is closed at once. */
  connectionsMax: number
  /** Longest wait for the header of a request. */
  headerMs: number
  /** Longest wait for a whole request. */
  requestMs: number
  /** How long an idle connection is kept. */
  idleMs: number
  /** How long an answer that is complete waits for a client that does not read it. */
  unreadMs: number
  bodyBytesMax: number
  /** What is read and thrown away of a body that is too large, so that the client gets to see the refusal. */
  discardBytesMax: number
  jsonDepthMax: number
  /** Bytes of a stream that a client has not read yet; beyond them it is cut. */
  unreadBytesMax: number
  /** Silence on a stream after which a comment says that the server is still there. */
  keepAliveMs: number
}

export const httpLimits: HttpLimits = {
  connectionsMax: 1024,
  headerMs: 10_000,
  requestMs: 60_000,
  idleMs: 65_000,
  unreadMs: 30_000,
  bodyBytesMax: 4 * 1024 * 1024,
  discardBytesMax: 64 * 1024 * 1024,
  jsonDepthMax: 64,
  unreadBytesMax: 1024 * 1024,
  keepAliveMs: 10_000,
}
