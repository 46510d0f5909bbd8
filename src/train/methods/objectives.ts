import { supervisedCount } from '../batch.ts'
import { LossGraph } from '../loss-graph.ts'
import type { Objective } from '../objective.ts'
import { type Method, policyOf, preferenceOf } from './method.ts'
import { policyObjective } from './policy-graph.ts'
import { preferenceObjective } from './preference-graph.ts'

/** The loss of the next token. */
export const nextToken: Objective = {
  graph: (parameters, device, shape, mode) => new LossGraph(parameters, device, shape, mode),
  count: supervisedCount,
}

export function objectiveOf(method: Method | undefined): Objective {
  const policy = policyOf(method)
  if (policy !== undefined) return policyObjective(policy)
  const preference = preferenceOf(method)
  return preference === undefined ? nextToken : preferenceObjective(preference)
}
