/** What is exported: a model's weights as floats, one after the other, an adapter merged into its base. */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { assert } from '../../base/assert.ts'
import { UserError } from '../../base/errors.ts'
import { readJsonFile } from '../../base/files.ts'
import { type Adapter, type AdapterLayer, isAdapterFolder, readAdapter } from '../../models/adapter.ts'
import type { ParameterSpec } from '../../models/architecture.ts'
import { type OpenModel, openModel } from '../../models/open.ts'
import { type RowRange, rowsOf } from '../../models/rows.ts'
import { checkedParameters } from '../../models/weights.ts'
import { loadGgml } from '../../runtime/ffi.ts'
import { baseModelOf } from '../prepare-model.ts'

export interface ExportSource extends Disposable {
  /** The folder or file that was named. */
  path: string
  /** The model that is changed by the adapter, or the model itself. */
  model: OpenModel
  adapter: Adapter | undefined
  specs: readonly ParameterSpec[]
  /** The parameter as it lies in memory, the adapter merged in; with a range those rows of it, which no adapter changes. */
  floats(spec: ParameterSpec, range?: RowRange): Float32Array
}

/**
 * Opens a model or an adapter with its base. Throws UserErrors, also when the base is not what it was. With
 * `adapterFolder`, the adapter's numbers are read from there.
 */
export function openExportSource(path: string, adapterFolder = path): ExportSource {
  const isAdapter = isAdapterFolder(path)
  const model = openModel(isAdapter ? basePath(path) : path)
  try {
    const adapter = isAdapter ? readAdapter(adapterFolder, model.definition) : undefined
    return {
      path,
      model,
      adapter,
      specs: checkedParameters(model),
      floats: (spec, range) => {
        const values = floatsOf(model, spec, range)
        const layer = adapter?.layers.get(spec.name.replace(/\.weight$/, ''))
        assert(layer === undefined || range === undefined, 'no adapter changes a part of a parameter')
        if (layer !== undefined && spec.name.endsWith('.weight')) merge(values, layer)
        return values
      },
      [Symbol.dispose]: () => model[Symbol.dispose](),
    }
  } catch (error) {
    model[Symbol.dispose]()
    throw error
  }
}

function basePath(adapter: string): string {
  const manifest = join(adapter, 'trainer.json')
  const trained = existsSync(manifest) ? readJsonFile(manifest).base : undefined
  const said = readJsonFile(join(adapter, 'adapter_config.json')).base_model_name_or_path
  const path = (trained as { path?: string } | undefined)?.path ?? said
  if (typeof path !== 'string' || !existsSync(path)) {
    throw new UserError(`The base model of ${adapter} is not at ${String(path)}.`, {
      failure: 'not_found',
      fix: 'Put it there, or set base_model_name_or_path in adapter_config.json to where it is.',
    })
  }
  const expected = (trained as { sha256?: string } | undefined)?.sha256
  if (expected !== undefined && baseModelOf(path).sha256 !== expected) {
    throw new UserError(`The model in ${path} is not the one that ${adapter} was trained on.`, {
      failure: 'conflict',
      fix: 'Put that model back; merged into another one, the adapter would do anything.',
    })
  }
  return path
}

function floatsOf(model: OpenModel, spec: ParameterSpec, range: RowRange | undefined): Float32Array {
  const size = spec.shape.reduce((a, b) => a * b, 1)
  const values = new Float32Array(range === undefined ? size : range.rows * spec.shape.at(-1)!)
  const into = new Uint8Array(values.buffer)
  let at = 0
  for (const { bytes } of rowsOf(model, loadGgml(), spec.name, 'F32', undefined, range)) {
    into.set(bytes, at)
    at += bytes.length
  }
  return values
}

/** W becomes W + scale B A, with DoRA each row at the length that was learned. */
export function merge(weight: Float32Array, layer: AdapterLayer): void {
  const { inputs, outputs, rank, scale, a, b, magnitude } = layer
  for (let output = 0; output < outputs; output++) {
    const row = weight.subarray(output * inputs, (output + 1) * inputs)
    for (let r = 0; r < rank; r++) {
      const factor = scale * b[output * rank + r]!
      const from = r * inputs
      for (let i = 0; i < inputs; i++) row[i] = row[i]! + factor * a[from + i]!
    }
    if (magnitude === undefined) continue
    const length = Math.sqrt(row.reduce((sum, value) => sum + value * value, 0))
    for (let i = 0; i < inputs; i++) row[i] = (row[i]! * magnitude[output]!) / length
  }
}
