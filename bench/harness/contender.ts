import type { Delivery, Workload } from './workload.ts'

/** An engine in a process of its own that takes a whole workload and says when each token came. */
export interface Contender extends AsyncDisposable {
  readonly name: string
  readonly versions: Readonly<Record<string, string>>
  run(workload: Workload): Promise<readonly Delivery[]>
  close(): Promise<void>
}
