/** The first SIGINT or SIGTERM asks for an orderly end, the second ends at once. */
export interface Shutdown {
  requested: Promise<NodeJS.Signals>
  signal: AbortSignal
  /** Asks for an orderly end as a signal would. */
  ask(): void
  dispose(): void
}

export function shutdownSignal(): Shutdown {
  const controller = new AbortController()
  let resolve: (signal: NodeJS.Signals) => void
  const requested = new Promise<NodeJS.Signals>((r) => {
    resolve = r
  })
  const on = (signal: NodeJS.Signals) => {
    if (controller.signal.aborted) process.exit(130)
    controller.abort()
    resolve(signal)
  }
  process.on('SIGINT', on)
  process.on('SIGTERM', on)
  return {
    requested,
    signal: controller.signal,
    ask: () => controller.abort(),
    dispose: () => {
      process.off('SIGINT', on)
      process.off('SIGTERM', on)
    },
  }
}
