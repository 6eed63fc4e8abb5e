"""Normalisation, forward and backward: of rows, and of segments, which are what a sample has of a channel.

Sums run over lanes and over blocks of BLOCK elements, in an order that the sizes alone decide.

[Note: segments] Segments are normalised together in groups of `count`: segment k of group u has `length` elements from
u * apart + k * stride on, and their weight is number (u % heads) * step + k * pace. In group norm u counts the groups
of all samples, k the channels of a group, of which a sample has `heads`; in batch norm u counts channels, k samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..row_vectors import inlined, read, subtract, write, zeros
from ..vectors import WIDTH, add, fill, multiply, sum_lanes

__all__ = ["normalize_rows", "normalize_rows_backward", "normalize_segments", "normalize_segments_backward"]

BLOCK = 1024


@inlined
def _end(begin: int, n: int) -> int:
    """Where a block ends."""
    return begin + BLOCK if begin + BLOCK < n else n


@inlined
def _sum(x: Any, row: int, n: int) -> Any:
    """The sum of a row, in lanes."""
    total = zeros(x)
    for begin in range(0, n, BLOCK):
        part = zeros(x)
        for i in range(begin, _end(begin, n), WIDTH):
            part = add(part, read(x, row + i, n - i, zeros(x)))
        total = add(total, part)
    return total


@inlined
def _spread(x: Any, middle: Any, row: int, n: int) -> Any:
    """The sum of (x - middle)^2 over a row, in lanes."""
    total = zeros(x)
    for begin in range(0, n, BLOCK):
        part = zeros(x)
        for i in range(begin, _end(begin, n), WIDTH):
            value = subtract(read(x, row + i, n - i, middle), middle)
            part = add(part, multiply(value, value))
        total = add(total, part)
    return total


def normalize_rows(x: Any, weight: Any, bias: Any, y: Any, mean: Any, rstd: Any, rows: int, n: int, weighted: int,
                   biased: int, centered: int, eps: Any) -> None:
    """Weight and bias have n elements; without `centered`, mean is left alone."""
    size = rows * n
    for number in range(rows):
        row = number * n
        middle = zeros(x)
        if centered:
            mean[number] = sum_lanes(_sum(x, row, n)) / n
            middle = fill(mean[number])
        rstd[number] = 1 / np.sqrt(sum_lanes(_spread(x, middle, row, n)) / n + eps)
        scale = fill(rstd[number])
        for i in range(0, n, WIDTH):
            value = multiply(subtract(read(x, row + i, n - i, middle), middle), scale)
            if weighted:
                value = multiply(value, read(weight, i, n - i, zeros(x)))
            if biased:
                value = add(value, read(bias, i, n - i, zeros(x)))
            write(value, y, row + i, size - row - i)


def normalize_rows_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, gx: Any, gw: Any, gb: Any, rows: int,
                            n: int, weighted: int, centered: int, parameters: int) -> None:
    """`parameters`: whether gradients are added to gw and gb, of n elements each."""
    size = rows * n
    for number in range(rows):
        row = number * n
        middle, scale = zeros(x), fill(rstd[number])
        if centered:
            middle = fill(mean[number])
        total, along = zeros(x), zeros(x)
        for begin in range(0, n, BLOCK):
            part, part_along = zeros(x), zeros(x)
            for i in range(begin, _end(begin, n), WIDTH):
                value = read(g, row + i, n - i, zeros(x))
                product = multiply(value, multiply(subtract(read(x, row + i, n - i, middle), middle), scale))
                if parameters:
                    write(add(read(gw, i, n - i, zeros(x)), product), gw, i, n - i)
                    write(add(read(gb, i, n - i, zeros(x)), value), gb, i, n - i)
                if weighted:
                    factor = read(weight, i, n - i, zeros(x))
                    value, product = multiply(value, factor), multiply(product, factor)
                part, part_along = add(part, value), add(part_along, product)
            total, along = add(total, part), add(along, part_along)
        gx[row] = sum_lanes(along) / n
        slope, shift = fill(gx[row]), zeros(x)
        if centered:
            gx[row] = sum_lanes(total) / n
            shift = fill(gx[row])
        for i in range(0, n, WIDTH):
            value = read(g, row + i, n - i, zeros(x))
            if weighted:
                value = multiply(value, read(weight, i, n - i, zeros(x)))
            hat = multiply(subtract(read(x, row + i, n - i, middle), middle), scale)
            value = multiply(subtract(subtract(value, shift), multiply(hat, slope)), scale)
            write(value, gx, row + i, size - row - i)


def normalize_segments(x: Any, weight: Any, bias: Any, y: Any, mean: Any, var: Any, rstd: Any, groups: int, count: int,
                       length: int, apart: int, stride: int, heads: int, step: int, pace: int, weighted: int,
                       biased: int, fixed: int, eps: Any) -> None:
    """[Note: segments]. With `fixed`, mean and var are given. Weight and bias are one number a segment."""
    for u in range(groups):
        if not fixed:
            total = 0.0
            for k in range(count):
                total += sum_lanes(_sum(x, u * apart + k * stride, length))
            mean[u] = total / (count * length)
        middle = fill(mean[u])
        if not fixed:
            total = 0.0
            for k in range(count):
                total += sum_lanes(_spread(x, middle, u * apart + k * stride, length))
            var[u] = total / (count * length)
        rstd[u] = 1 / np.sqrt(var[u] + eps)
        scale = fill(rstd[u])
        for k in range(count):
            row, w = u * apart + k * stride, (u % heads) * step + k * pace
            for i in range(0, length, WIDTH):
                value = multiply(subtract(read(x, row + i, length - i, middle), middle), scale)
                if weighted:
                    value = multiply(value, fill(weight[w]))
                if biased:
                    value = add(value, fill(bias[w]))
                write(value, y, row + i, length - i)


def normalize_segments_backward(g: Any, x: Any, mean: Any, rstd: Any, weight: Any, gx: Any, gw: Any, gb: Any,
                                groups: int, count: int, length: int, apart: int, stride: int, heads: int, step: int,
                                pace: int, weighted: int, fixed: int) -> None:
    """[Note: segments]. gw and gb are added to."""
    for u in range(groups):
        middle, scale = fill(mean[u]), fill(rstd[u])
        total, along = 0.0, 0.0
        for k in range(count):
            row, w = u * apart + k * stride, (u % heads) * step + k * pace
            sums, products = zeros(x), zeros(x)
            for begin in range(0, length, BLOCK):
                part, part_along = zeros(x), zeros(x)
                for i in range(begin, _end(begin, length), WIDTH):
                    value = read(g, row + i, length - i, zeros(x))
                    hat = multiply(subtract(read(x, row + i, length - i, middle), middle), scale)
                    part, part_along = add(part, value), add(part_along, multiply(value, hat))
                sums, products = add(sums, part), add(products, part_along)
            a, b = sum_lanes(sums), sum_lanes(products)
            gb[w] += a
            gw[w] += b
            factor = weight[w] if weighted else 1.0
            total += factor * a
            along += factor * b
        place = u * apart
        gx[place] = 0 if fixed else total / (count * length)
        shift = fill(gx[place])
        gx[place] = 0 if fixed else along / (count * length)
        slope = fill(gx[place])
        for k in range(count):
            row, w = u * apart + k * stride, (u % heads) * step + k * pace
            for i in range(0, length, WIDTH):
                value = read(g, row + i, length - i, zeros(x))
                if weighted:
                    value = multiply(value, fill(weight[w]))
                hat = multiply(subtract(read(x, row + i, length - i, middle), middle), scale)
                value = multiply(subtract(subtract(value, shift), multiply(hat, slope)), scale)
                write(value, gx, row + i, length - i)
