/**
 * Models that no deployment was made with, and that are found when somebody asks for them: checkpoints of fine-tuning
 * jobs, adapters that a training publishes. Each is answered by a deployment, most by an adapter beside its model.
 */
import type { Model } from '../../api/models.ts'
import type { Replica } from './replicas.ts'

export interface LateModel {
  /** The deployment that answers. */
  readonly deployment: string
  /** The only version of it that can. */
  readonly version?: string
  /** What answers name as their model. */
  readonly name: string
  /** Of the deployment's name and this, usage is counted. */
  readonly billed: string
  /** What a replica has to load first. Its content never changes. */
  readonly adapter?: string
}

export interface LateModels {
  /** Undefined when the project has no model of this name. */
  find(project: string, name: string): Promise<LateModel | undefined>
  /** Those that a key of the project may ask for. */
  list(project: string): Promise<readonly Model[]>
}

/** Puts adapters into replicas. */
export interface AdapterLoads {
  /**
   * Resolves with the replica's name for it, at once when it is there already. Throws Problem when it cannot be
   * served, ReplicaLost when the replica is gone.
   */
  load(replica: Replica, adapter: string, signal: AbortSignal): Promise<string>
  /** The replica says that it has it no more. */
  forget(replica: string, adapter: string): void
}
