import { existsSync } from 'node:fs'
import { cpus, freemem, totalmem } from 'node:os'
import { dirname, resolve } from 'node:path'
import type { Command } from 'commander'
import { UserError } from '../../base/errors.ts'
import { defaultThreads, listDevices } from '../../runtime/device.ts'
import { loadGgml } from '../../runtime/ffi.ts'
import { featuresHere, setsFor, setsOf, unitsFor } from '../../runtime/instruction-sets.ts'
import { type KernelStatus, kernelStatus } from '../../runtime/kernels.ts'
import { compileKernels, kernelCacheFolder } from '../../runtime/kernels-build.ts'
import { modelsFolder, ropewayHome } from '../home.ts'
import { bytes, green, red } from '../terminal.ts'

export function doctorCommand(program: Command): void {
  program
    .command('doctor')
    .description('say what this machine has, what is missing, and what that would bring')
    .option('--json', 'print the findings as JSON')
    .action((flags: { json?: boolean }) => {
      const findings = examine()
      if (flags.json === true) {
        process.stdout.write(`${JSON.stringify(findings)}\n`)
        return
      }
      for (const { ok, subject, found, fix } of findings) {
        process.stdout.write(`${ok ? green('ok') : red('--')} ${subject}: ${found}\n`)
        if (fix !== undefined) process.stdout.write(`     ${fix}\n`)
      }
    })
  const kernels = program.command('kernels').description('our own CPU kernels')
  kernels
    .command('build')
    .description('compile them now instead of at the first use, or for other machines')
    .option('--all', 'for all processors of this platform, not for the one here alone')
    .option('--into <folder>', 'keep them there, for a package or an image, instead of in the cache folder')
    .action(({ all = false, into }: { all?: boolean; into?: string }) => {
      if (all || into !== undefined) return buildForOthers(all, into)
      const status = kernelStatus()
      const { ok, found, fix } = kernelFinding(status)
      const took = status.kernels && status.tookMs > 0 ? `, in ${Math.round(status.tookMs / 1000)} s` : ''
      process.stdout.write(`${found}${took}\n`)
      if (fix !== undefined) process.stderr.write(`${fix}\n`)
      if (!ok) process.exitCode = 1
    })
}

function buildForOthers(all: boolean, into: string | undefined): void {
  const chosen = unitsFor(all ? undefined : featuresHere())
  const build = compileKernels(into === undefined ? kernelCacheFolder() : resolve(into), chosen)
  if (!build.ok) throw new UserError(`The kernels were not compiled: ${build.reason}.`, { fix: build.fix })
  const made = setsOf(chosen.filter((unit) => !build.leftOut.includes(unit)))
  const took = build.cached ? '' : `, in ${Math.round(build.tookMs / 1000)} s`
  process.stdout.write(`${made.join(', ')} (${build.compiler}) in ${dirname(build.path)}${took}\n`)
  if (build.leftOut.length > 0)
    process.stderr.write(`This compiler is too old for ${setsOf(build.leftOut).join(', ')}.\n`)
}

interface Finding {
  ok: boolean
  subject: string
  found: string
  fix?: string
}

function examine(): Finding[] {
  const ggml = loadGgml()
  const devices = listDevices().map(({ name, description }) => `${name} (${description})`)
  return [
    { ok: true, subject: 'node', found: process.version },
    { ok: true, subject: 'machine', found: `${cpus().length} cores, ${defaultThreads()} threads by default` },
    { ok: true, subject: 'memory', found: `${bytes(freemem())} free of ${bytes(totalmem())}` },
    { ok: true, subject: 'ggml', found: `${ggml.version} from ${ggml.packages.join(', ')}` },
    { ok: true, subject: 'devices', found: devices.join(', ') },
    ...ggml.gpuProblems.map(({ variant, reason, fix }) => ({
      ok: false,
      subject: variant,
      found: `the package is installed, but ${reason}`,
      ...(fix !== undefined && { fix }),
    })),
    kernelFinding(kernelStatus()),
    {
      ok: true,
      subject: 'home',
      found: `${ropewayHome()}${existsSync(modelsFolder()) ? '' : ' (no models yet)'}`,
    },
  ]
}

export function kernelFinding(status: KernelStatus): Finding {
  if (status.kernels === undefined) {
    const fix = `${status.fix} Kernels of our own bring attention without copies of the cache and products several times as fast.`
    return { ok: false, subject: 'kernels', found: `plain ggml: ${status.reason}`, fix }
  }
  const { kernels, compiler, leftOut, passedOver, alongFrom } = status
  const runs = setsFor(featuresHere()) ?? kernels.available
  const fixes = [
    ...(passedOver === undefined
      ? []
      : [`CXX is '${passedOver}', which does not answer to --version; this compiler was taken instead.`]),
    ...(leftOut.length === 0
      ? []
      : [
          alongFrom === undefined
            ? `This compiler is too old for ${setsOf(leftOut).join(', ')}: a newer g++ or clang++ brings the faster kernels of CPUs that have them.`
            : `They have none for ${setsOf(leftOut).join(', ')}: a C++ compiler here brings the faster ones, or "ropeway kernels build --all" where they come from.`,
        ]),
  ]
  return {
    ok: true,
    subject: 'kernels',
    found: `${kernels.instructionSet} of ${runs.join(', ')} (${compiler}${alongFrom === undefined ? '' : `, from ${alongFrom}`})`,
    ...(fixes.length > 0 && { fix: fixes.join(' ') }),
  }
}
