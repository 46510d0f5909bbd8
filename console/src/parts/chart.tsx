import { useEffect, useMemo, useRef } from 'react'
import uPlot from 'uplot'
import 'uplot/dist/uPlot.min.css'
import { numberText } from '../text.ts'

export interface Curve {
  readonly name: string
  readonly points: readonly { readonly step: number; readonly value: number }[]
}

const colours = ['#2b6cb0', '#dd6b20', '#2f855a', '#97266d', '#6b46c1', '#b7791f']
const height = 240

/** Curves over steps. Steps that only one curve has leave no hole in another. */
export function Chart({ title, curves }: { title: string; curves: readonly Curve[] }) {
  const place = useRef<HTMLDivElement>(null)
  const plot = useRef<uPlot>(undefined)
  const names = curves.map(({ name }) => name).join('\n')
  const data = useMemo(() => alignedOf(curves), [curves])
  // A new plot for other curves, new data for the same ones.
  useEffect(() => {
    const made = new uPlot(optionsOf(place.current!, curves), data, place.current!)
    plot.current = made
    const watch = new ResizeObserver(([entry]) => made.setSize({ width: entry!.contentRect.width, height }))
    watch.observe(place.current!)
    return () => {
      watch.disconnect()
      made.destroy()
    }
  }, [names])
  useEffect(() => {
    plot.current?.setData(data)
  }, [data])
  return (
    <figure className="chart">
      <figcaption>{title}</figcaption>
      <div ref={place} />
    </figure>
  )
}

function optionsOf(place: HTMLElement, curves: readonly Curve[]): uPlot.Options {
  const ink = getComputedStyle(place).color
  const grid = { stroke: 'rgba(128, 128, 128, 0.2)', width: 1 }
  return {
    width: place.clientWidth,
    height,
    scales: { x: { time: false } },
    axes: [
      { stroke: ink, grid },
      { stroke: ink, grid, size: 60, values: (_, ticks) => ticks.map(numberText) },
    ],
    series: [
      { label: 'step' },
      ...curves.map(({ name, points }, i) => ({
        label: name,
        stroke: colours[i % colours.length]!,
        width: 2,
        spanGaps: true,
        points: { show: points.length < 20 },
        value: (_: uPlot, value: number | null) => (value === null ? '' : numberText(value)),
      })),
    ],
  }
}

function alignedOf(curves: readonly Curve[]): uPlot.AlignedData {
  const steps = [...new Set(curves.flatMap(({ points }) => points.map(({ step }) => step)))].sort(
    (a, b) => a - b,
  )
  const values = curves.map(({ points }) => {
    const known = new Map(points.map(({ step, value }) => [step, value]))
    return steps.map((step) => known.get(step))
  })
  return [steps, ...values]
}
