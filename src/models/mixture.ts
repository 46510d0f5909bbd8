/**
 * Layers whose feed-forward is a mixture of experts (Shazeer 2017): which they are, their parameters and products, and how the files
 * of each family hold them. One expert's weights lie behind the other's in one parameter, so that it is stored, quantised and
 * trained like any other product.
 *
 * E experts, K used, F feed-forward of an expert, W width.
 */
import type { StoredPart } from '../formats/stacked-source.ts'
import type { Mixture, MixtureNames, ParameterSpec, ProductGroup } from './architecture.ts'
import type { ConfigFields } from './config-fields.ts'

/** The mixtures of a network; all have the same sizes. */
export interface LayerMixtures extends Mixture {
  /** F */
  feedForward: number
  /** Router and experts have biases. */
  biased?: true
  /** Whether the layer of that number has one, or one feed-forward for all tokens. */
  isIn(layer: number): boolean
  /** Undefined where files hold parameters under their own names, or an architecture reads them itself. */
  files: MixtureFiles | undefined
}

type ExpertProduct = 'gate' | 'up' | 'down'

/** How files hold the mixture of a layer (`model.layers.I`). */
export interface MixtureFiles {
  router(layer: string): string
  /** Where the rows of one expert of gate, up [F, W] or down [W, F] lie. */
  expert(layer: string, product: ExpertProduct, expert: number, sizes: ExpertSizes): StoredPart
}

export interface ExpertSizes {
  experts: number
  /** F */
  feedForward: number
  /** W */
  width: number
}

/** A tensor for each product of each expert. */
export function fileOfEach(
  block: string,
  router: string,
  names: { readonly [Product in ExpertProduct]: string },
): MixtureFiles {
  return {
    router: (layer) => `${layer}.${block}.${router}.weight`,
    expert: (layer, product, expert, { feedForward, width }) => {
      const shape = product === 'down' ? [width, feedForward] : [feedForward, width]
      const name = `${layer}.${block}.experts.${expert}.${names[product]}.weight`
      return { name, shape, row: 0, rows: shape[0]! }
    },
  }
}

/** One tensor for all experts, gate and up of each below one another. */
export const fileOfAll: MixtureFiles = {
  router: (layer) => `${layer}.block_sparse_moe.router.layer.weight`,
  expert: (layer, product, expert, { experts, feedForward, width }) => {
    const block = `${layer}.block_sparse_moe`
    if (product === 'down') {
      const shape = [experts, width, feedForward]
      return { name: `${block}.output_linear.weight`, shape, row: expert * width, rows: width }
    }
    const row = (2 * expert + (product === 'up' ? 1 : 0)) * feedForward
    const shape = [experts, 2 * feedForward, width]
    return { name: `${block}.input_linear.weight`, shape, row, rows: feedForward }
  },
}

/** E and K, from the fields that both spellings of transformers write. */
export function parseExperts(fields: ConfigFields): { experts: number; used: number } {
  const field = fields.source.num_experts === undefined ? 'num_local_experts' : 'num_experts'
  const experts = fields.experts(field)
  const used = fields.count('num_experts_per_tok')
  if (used > experts) throw fields.refuse('num_experts_per_tok', used, `at most ${field}, ${experts}`)
  return { experts, used }
}

export function mixtureNames(layer: string): MixtureNames {
  const experts = `${layer}.mlp.experts`
  return {
    router: `${layer}.mlp.gate`,
    gate: `${experts}.gate_proj`,
    up: `${experts}.up_proj`,
    down: `${experts}.down_proj`,
  }
}

/** `residual`: the spread of what writes into the residual. */
export function mixtureParameters(
  { experts, feedForward, files, biased }: LayerMixtures,
  layer: string,
  width: number,
  { std, residual }: { std: number; residual: number },
): ParameterSpec[] {
  const names = mixtureNames(layer)
  const sizes = { experts, feedForward, width }
  const stacked = (product: ExpertProduct, outputs: number, inputs: number, std: number): ParameterSpec => ({
    name: `${names[product]}.weight`,
    shape: [experts * outputs, inputs],
    role: 'product',
    init: { std },
    experts,
    ...(files !== undefined && {
      parts: Array.from({ length: experts }, (_, expert) => files.expert(layer, product, expert, sizes)),
    }),
  })
  const router: ParameterSpec = {
    name: `${names.router}.weight`,
    shape: [experts, width],
    role: 'router',
    init: { std },
  }
  const stored = files?.router(layer) ?? router.name
  const bias = (name: string, shape: readonly number[]): ParameterSpec => {
    return { name: `${name}.bias`, shape, role: 'vector', init: { value: 0 } }
  }
  const biases = [
    bias(names.router, [experts]),
    bias(names.gate, [experts, feedForward]),
    bias(names.up, [experts, feedForward]),
    bias(names.down, [experts, width]),
  ]
  return [
    stored === router.name
      ? router
      : { ...router, parts: [{ name: stored, shape: router.shape, row: 0, rows: experts }] },
    stacked('gate', feedForward, width, std),
    stacked('up', feedForward, width, std),
    stacked('down', width, feedForward, residual),
    ...(biased ? biases : []),
  ]
}

/** They are packed together or not at all: whoever computes the experts reads their router, too. */
export function mixtureProduct({ experts }: LayerMixtures, layer: string): ProductGroup {
  const { router, gate, up, down } = mixtureNames(layer)
  return { kind: 'mixed', names: [router, gate, up, down], experts }
}
